"""What must be proven of this side's program before a connection's first byte."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from shared.model.policy.decision import Answer, Ending
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Mode
from sidecar.attest.facts import AttestationError
from tests.sidecar.little_ca import until
from tests.sidecar.pair import CLIENT, CLIENT_PROGRAM, SERVER, SERVER_PROGRAM, approve, running_pair
from tests.sidecar.test_outbound import echo

EXPLICIT = approve((CLIENT, CLIENT_PROGRAM), (SERVER, SERVER_PROGRAM), mode=Mode.EXPLICIT)


@pytest.mark.parametrize("side", ["client", "server"])
async def test_no_byte_passes_while_another_program_holds_the_socket_or_the_listener(side: str) -> None:
    reached: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.append(await reader.read(100))
        writer.close()

    async with running_pair(take) as pair:
        pair.set_state(EXPLICIT)
        sides = {"client": pair.client, "server": pair.server}
        sides[side].attestor.shared = AttestationError("two hold it", reason=Reason.SOCKET_SHARED)
        reader, writer = await pair.connect()
        writer.write(b"secret")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        await until(lambda: sides[side].records)
        record = sides[side].records[0]
        assert (record.answer, record.reason, record.ending) == (Answer.DENY, Reason.SOCKET_SHARED, Ending.REFUSED)
    assert reached == []


async def test_permissive_mode_waits_for_no_search() -> None:
    async with running_pair(echo) as pair:
        pair.client.attestor.shared = AttestationError("two hold it", reason=Reason.SOCKET_SHARED)
        reader, writer = await pair.connect()
        writer.write(b"hi")
        writer.write_eof()
        assert await reader.read() == b"hi"
        writer.close()
        assert pair.client.attestor.cleared == 0


async def test_a_search_that_takes_too_long_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_pair(echo) as pair:
        pair.set_state(EXPLICIT)
        pair.client.attestor.shared = AttestationError("never told", reason=Reason.SOCKET_SHARED)

        async def wait(_: object) -> None:
            await asyncio.sleep(60)

        monkeypatch.setattr(pair.client.attestor, "clear", wait)
        pair.client.sidecar.limits = replace(pair.client.sidecar.limits, attest_s=0.01)
        reader, _ = await pair.connect()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await until(lambda: pair.client.records)
        assert pair.client.records[0].reason is Reason.HOLDERS_UNKNOWN
