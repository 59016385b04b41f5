"""Who asked is known by peer credentials, and where it isn't known that is said (``ca.api.admin.caller``)."""

from __future__ import annotations

import asyncio
import os
import pwd

from ca.api.admin.caller import identify_caller
from ca.runtime.compose import RunningCA
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


async def test_a_port_tells_an_address_and_no_user() -> None:
    seen: asyncio.Future[AuditActor] = asyncio.get_running_loop().create_future()

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.set_result(await identify_caller(writer.transport))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        port = writer.get_extra_info("sockname")[1]
        assert await seen == AuditActor(kind="port", origin=f"127.0.0.1 port {port}")
        await reader.read()
        writer.close()
        await writer.wait_closed()
    assert (await identify_caller(None)).kind == "socket"
