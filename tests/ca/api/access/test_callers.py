"""Who asked on the socket is known by peer credentials (``ca.api.access.callers``)."""

from __future__ import annotations

import grp
import os
import pwd

import pytest

from ca.api.access.callers import UserCaller, find_gid
from ca.api.access.roles import Need, Role
from ca.kubernetes.view import ClusterUser
from ca.runtime.compose import RunningCA
from ca.store.audit.audit_log import MAX_STATE_BYTES, MAX_SUBJECT_CHARACTERS
from shared.model.errors import InputError, NotAllowedError
from shared.model.wire import admin as api
from shared.model.wire.admin_audit import (
    FIRST_PREVIOUS,
    MAX_AUDIT_LINE_BYTES,
    AuditActor,
    AuditEntry,
    encode_entry,
    read_entry,
)
from tests.ca.founded import WEB
from tests.ca.running import Admin

# As long as one can be: namespace and name of 63 and 253 characters.
ACCOUNT = f"system:serviceaccount:{'n' * 63}:{'a' * 253}"


class Refusing:
    """A cluster whose users may do nothing."""

    async def review_token(self, token: str) -> ClusterUser:
        raise NotImplementedError

    async def check_allowed(self, user: ClusterUser, *, verb: str, group: str, resource: str, namespace: str) -> None:
        raise NotAllowedError(f"may not {verb} {resource}")

    async def read_client_roots(self) -> bytes:
        raise NotImplementedError


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


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("rita", "--user=rita"),
        ("oidc:rita@example.com", "--user=oidc:rita@example.com"),
        ("$(reboot); `id`'", """--user='$(reboot); `id`'"'"''"""),
        (ACCOUNT, f"--user={ACCOUNT}"),
        ("rita\nreboot", "--user=NAME"),
        ("rita\x1b[2K", "--user=NAME"),
        ("r" * 401, "--user=NAME"),
    ],
)
async def test_an_offered_command_does_what_it_says_in_a_shell(name: str, written: str) -> None:
    caller = UserCaller(ClusterUser(name=name, groups=()), Refusing(), origin="")
    with pytest.raises(NotAllowedError) as caught:
        await caller.check(Need(role=Role.CA_OPERATOR, resource="ca"))
    assert caught.value.hint.endswith(f"--clusterrole=touchmark-operator {written}")


def test_the_longest_service_accounts_are_told_apart_and_their_acts_fit_a_line() -> None:
    name = UserCaller(ClusterUser(name=ACCOUNT, groups=()), Refusing(), origin="").actor.name
    assert name == ACCOUNT
    longest = UserCaller(ClusterUser(name="\U0001f600" * 1000, groups=()), Refusing(), origin="::1 port 65535").actor
    state = {"text": "s" * (MAX_STATE_BYTES - len('{"text":""}'))}
    entry = AuditEntry(
        sequence=10**18, previous=FIRST_PREVIOUS, time=1e10 / 3, act="program.delete", actor=longest,
        subject="\u2028" * MAX_SUBJECT_CHARACTERS, before=state, after=state,
    )  # fmt: skip
    assert len(encode_entry(entry).encode()) <= MAX_AUDIT_LINE_BYTES


def test_a_group_is_found_by_name_or_number() -> None:
    assert find_gid(grp.getgrgid(0).gr_name) == 0
    assert find_gid("41001") == 41_001
    with pytest.raises(InputError, match="no group"):
        find_gid("no-such-group")
