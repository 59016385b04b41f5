"""Who asked on the socket is known by peer credentials (``ca.api.access.callers``)."""

from __future__ import annotations

import grp
import os
import pwd

import pytest

from ca.api.access.callers import find_gid
from ca.runtime.compose import RunningCA
from shared.model.errors import InputError
from shared.model.wire import admin as api
from shared.model.wire.admin_audit import AuditActor, read_entry
from tests.ca.founded import WEB
from tests.ca.running import Admin


async def test_an_act_on_the_socket_is_recorded_with_the_peers_user_and_process(
    services: RunningCA, admin: Admin
) -> None:
    await admin.ask("POST", "/v1/join-tokens", api.JoinTokenCreated, api.JoinTokenRequest(workload="a/b"), status=201)
    (line,) = (await services.store.audit.list_lines(limit=1, newest=True)).lines
    user = pwd.getpwuid(os.getuid()).pw_name
    assert read_entry(line).actor == AuditActor(
        kind="socket", name=user, uid=os.getuid(), gid=os.getgid(), pid=os.getpid()
    )


async def test_what_the_ca_does_after_a_request_is_not_recorded_as_its_callers(
    services: RunningCA, admin: Admin
) -> None:
    await admin.ask("POST", "/v1/rotation", api.RotationStatus, api.RotationRequest())
    await services.store.join_tokens.create(workload=WEB, addresses=(), labels={}, expires=2e10, now=1.0)
    (line,) = (await services.store.audit.list_lines(limit=1, newest=True)).lines
    assert read_entry(line).actor == AuditActor(kind="ca")


def test_a_group_is_found_by_name_or_number() -> None:
    assert find_gid(grp.getgrgid(0).gr_name) == 0
    assert find_gid("41001") == 41_001
    with pytest.raises(InputError, match="no group"):
        find_gid("no-such-group")
