"""What is required of a local program, whether it dials or serves: its origin, and that its sockets are its own."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from shared.model.policy.decision import Answer, Origin
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Mode, Requirement
from sidecar.attest.facts import AttestationError
from tests.sidecar.little_ca import until
from tests.sidecar.pair import CLIENT, CLIENT_PROGRAM, SERVER, SERVER_PROGRAM, approve, running_pair
from tests.sidecar.test_outbound import echo

APPROVED = ((SERVER, SERVER_PROGRAM), (CLIENT, CLIENT_PROGRAM))


@pytest.mark.parametrize("mode", [*Mode])
@pytest.mark.parametrize("origin", [Origin.EXEC, Origin.UNKNOWN])
@pytest.mark.parametrize("end", ["client", "server"])
async def test_what_doesnt_come_from_its_containers_first_process_is_refused(
    end: str, origin: Origin, mode: Mode
) -> None:
    async with running_pair(echo) as pair:
        pair.set_state(approve(*APPROVED, mode=mode, requires=(Requirement.CONTAINER_ORIGIN,)))
        side = getattr(pair, end)
        side.attestor.origin = origin
        reader, writer = await pair.connect()
        with pytest.raises(ConnectionResetError):
            writer.write(b"x")
            assert await asyncio.wait_for(reader.read(1), 60) == b""
            raise ConnectionResetError
        writer.close()
        await until(lambda: pair.client.records or pair.server.records)
        records = [*side.records, *pair.client.records]
        assert records[0].answer is Answer.DENY
        # An explicit client refuses a server that shows no program's certificate, before that one is asked.
        if end == "client" or mode is Mode.PERMISSIVE:
            assert records[0].reason is Reason.PROCESS_ORIGIN


@pytest.mark.parametrize(
    ("origin", "is_required", "told"),
    [
        (Origin.CONTAINER, True, Origin.CONTAINER),
        (Origin.EXEC, False, Origin.EXEC),
        (Origin.UNKNOWN, False, msgspec.UNSET),
    ],
)
async def test_what_comes_from_it_or_neednt_is_carried_and_its_record_says_where_it_comes_from(
    origin: Origin, is_required: bool, told: Origin | msgspec.UnsetType
) -> None:
    async with running_pair(echo) as pair:
        pair.set_state(approve(*APPROVED, mode=Mode.EXPLICIT, requires=(Requirement.CONTAINER_ORIGIN,) * is_required))
        pair.client.attestor.origin = origin
        reader, writer = await pair.connect()
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.close()
        await until(lambda: pair.client.records)
        assert pair.client.records[0].process.origin == told


@pytest.mark.parametrize("mode", [*Mode])
async def test_a_live_connection_is_closed_when_its_origin_is_required_from_now_on(mode: Mode) -> None:
    async with running_pair(echo) as pair:
        pair.set_state(approve(*APPROVED, mode=mode))
        pair.client.attestor.origin = Origin.EXEC
        reader, writer = await pair.connect()
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        pair.set_state(approve(*APPROVED, mode=mode, requires=(Requirement.CONTAINER_ORIGIN,)))
        pair.client.sidecar.connections.decide_again("shop")
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), 60)
        writer.close()
        await until(lambda: pair.client.records)
        assert pair.client.records[0].reason is Reason.PROCESS_ORIGIN


@pytest.mark.parametrize("mode", [*Mode])
@pytest.mark.parametrize("is_required", [True, False])
@pytest.mark.parametrize("end", ["client", "server"])
async def test_a_socket_that_the_program_was_given_is_refused_where_it_must_be_its_own(
    end: str, is_required: bool, mode: Mode
) -> None:
    async with running_pair(echo) as pair:
        pair.set_state(approve(*APPROVED, mode=mode, requires=(Requirement.OWN_SOCKETS,) * is_required))
        side = getattr(pair, end)
        side.attestor.given = AttestationError("not close-on-exec", reason=Reason.SOCKET_NOT_OWN)
        side.attestor.is_given_dialled, side.attestor.is_slow = end == "client", True
        reader, writer = await pair.connect()
        writer.write(b"hello")
        if is_required:
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.read(1), 60)
        else:
            assert await reader.readexactly(5) == b"hello"
        writer.close()
        await until(lambda: side.records)
        assert side.records[0].reason is (Reason.SOCKET_NOT_OWN if is_required else Reason.SAME_GROUP)
