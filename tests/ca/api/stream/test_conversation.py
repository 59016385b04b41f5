"""A sidecar that doesn't read, or breaks the protocol, loses its stream; and no other one waits for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import WSMessage, WSMsgType
from websockets.exceptions import ConnectionClosed

from ca.api.stream import conversation, endpoint
from ca.api.stream.certificate_requests import CertificateRequests
from ca.api.stream.messages import SidecarMessages
from ca.distribution.session import Session
from ca.metrics import Metrics
from ca.runtime.compose import RunningCA
from ca.store.records import DecisionFilter
from shared.model.identity.identity import Workload
from shared.model.wire.messages import (
    CertificateRefused,
    CertificateRequest,
    Decisions,
    DecisionsStored,
    DirectoryEntry,
    FromSidecar,
    Lookup,
    Subscribe,
    encode_message,
)
from tests.ca.running import FakeSidecar, eventually, make_client_context, make_decision


async def test_a_reader_that_is_too_slow_is_ended(services: RunningCA, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "SEND_DEADLINE_S", 0.3)
    for module in (conversation, endpoint):
        monkeypatch.setattr(module, "CLOSE_DEADLINE_S", 0.3)
    async with FakeSidecar(services) as client:
        await client.enrol("a")
        client.stream.transport.pause_reading()
        session = services.hub.get("a")
        assert session is not None
        for _ in range(4):
            session.send_encoded(b"x" * 4_000_000)
        await eventually(lambda: services.hub.get("a") is None)
        client.stream.transport.abort()
    assert 'touchmark_ca_streams_closed_total{why="slow"} 1.0' in services.metrics.render().decode()


async def test_an_outbox_that_overflows_ends_the_stream(services: RunningCA, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (conversation, endpoint):
        monkeypatch.setattr(module, "CLOSE_DEADLINE_S", 0.3)
    async with FakeSidecar(services) as client:
        await client.enrol("a")
        session = services.hub.get("a")
        assert session is not None
        for number in range(5000):  # Without a turn of the loop: nothing of it is sent.
            session.send(DecisionsStored(batch=number))
        assert session.ended.result() == "slow"
        await eventually(lambda: services.hub.get("a") is None)
        client.stream.transport.abort()


async def test_a_session_says_that_its_messages_wait_for_the_ca(
    services: RunningCA, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, goes_on = asyncio.Event(), asyncio.Event()

    async def answer(self: SidecarMessages, session: Session, message: FromSidecar) -> None:
        begun.set()
        await goes_on.wait()

    monkeypatch.setattr(SidecarMessages, "answer", answer)
    async with FakeSidecar(services) as client:
        await client.enrol("a")
        session = services.hub.get("a")
        assert session is not None
        await client.send(Subscribe(namespace="shop"))
        await begun.wait()
        assert not session.is_read
        goes_on.set()
        await eventually(lambda: session.is_read)


class Arrived:
    """A WebSocket whose frames have all arrived: none is waited for, as after a burst of small ones."""

    close_code = None

    def __init__(self, frames: Sequence[WSMessage]) -> None:
        self._frames = iter(frames)
        self.answered = 0

    async def receive(self) -> WSMessage:
        return next(self._frames)

    async def pong(self, _data: bytes) -> None:
        self.answered += 1


@contextlib.asynccontextmanager
async def counting_turns() -> AsyncIterator[Callable[[], int]]:
    """Count how often another task has its turn."""
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(take_turns())
    try:
        yield lambda: turns
    finally:
        task.cancel()


async def test_pings_that_arrive_by_the_thousand_leave_the_others_their_turns() -> None:
    """One sidecar that sent nothing else had the CA for itself: others waited ten seconds for a certificate."""
    lookup = WSMessage(WSMsgType.BINARY, encode_message(Lookup(address="198.18.0.2")), None)
    frames = [WSMessage(kind, b"", None) for kind in (WSMsgType.PING, WSMsgType.PONG)] * 500
    websocket = Arrived([*frames, lookup])
    async with counting_turns() as count:
        assert await conversation.receive(cast("Any", websocket)) == Lookup(address="198.18.0.2")
        assert count() >= 900
    assert websocket.answered == 500


async def test_messages_that_arrive_by_the_thousand_leave_the_others_their_turns() -> None:
    lookup = WSMessage(WSMsgType.BINARY, encode_message(Lookup(address="198.18.0.2")), None)
    answered = 0

    class Answering:
        async def answer(self, _session: Session, _message: FromSidecar) -> None:
            nonlocal answered
            answered += 1

    websocket = Arrived([*[lookup] * 1_000, WSMessage(WSMsgType.CLOSED, None, None)])
    session = Session(instance="a", workload=Workload(namespace="shop", service_account="web"), opened=0.0)
    talk = conversation.Conversation(
        cast("Any", websocket),
        session,
        messages=cast("Any", Answering()),
        requests=cast("Any", None),
        metrics=Metrics(),
    )
    async with counting_turns() as count:
        await talk._read()
        assert count() >= 100
    assert answered == 1_000


async def test_so_many_requests_are_in_work_at_once_and_all_are_answered(
    services: RunningCA, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "MAX_REQUESTS_IN_WORK", 2)
    in_work, most, goes_on = set[int](), 0, asyncio.Event()

    async def answer(self: CertificateRequests, session: Session, request: CertificateRequest) -> CertificateRefused:
        nonlocal most
        in_work.add(request.request)
        most = max(most, len(in_work))
        if most == 2:
            goes_on.set()
        await goes_on.wait()
        await asyncio.sleep(0)
        in_work.remove(request.request)
        return CertificateRefused(request=request.request, reason="overloaded", message="")

    monkeypatch.setattr(CertificateRequests, "answer", answer)
    async with FakeSidecar(services) as client:
        await client.enrol("a")
        for number in range(7):
            await client.send(CertificateRequest(request=number, csr=b""))
        answered = {(await client.expect(CertificateRefused)).request for _ in range(7)}
    assert answered == set(range(7))
    assert most == 2


def write_frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv1: bool = False) -> bytes:
    """Write a WebSocket frame as a client does (RFC 6455, section 5.2), with a mask that changes nothing."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else bytes([0xFE]) + size.to_bytes(2, "big")
    return bytes([fin << 7 | rsv1 << 6 | opcode]) + length + bytes(4) + payload


async def send_raw(client: FakeSidecar, *frames: bytes) -> None:
    """Send frames past the library, which would write no such ones."""
    for frame in frames:
        client.stream.transport.write(frame)
    await asyncio.sleep(0)


async def test_a_message_in_single_bytes_with_pings_between_them_is_one_message(services: RunningCA) -> None:
    data = encode_message(Lookup(address="198.18.0.2"))
    async with FakeSidecar(services) as client:
        await client.enrol("a")
        await send_raw(client, write_frame(2, data[:1], fin=False))
        for byte in data[1:]:
            await send_raw(
                client, write_frame(9, b"?"), write_frame(0, b"", fin=False), write_frame(0, bytes([byte]), fin=False)
            )
        await send_raw(client, write_frame(0))
        assert (await client.expect(DirectoryEntry)).address == "198.18.0.2"


BEGUN = write_frame(2, b"x", fin=False)
PART = b"x" * 40_000


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param([write_frame(0, b"x")], id="a continuation of nothing"),
        pytest.param([BEGUN, write_frame(2, b"y")], id="a message within a message"),
        pytest.param([write_frame(2, b"x", rsv1=True)], id="a compressed message"),
        pytest.param([BEGUN, write_frame(0, b"y", rsv1=True)], id="a compressed continuation"),
        pytest.param([write_frame(9, b"x", fin=False)], id="a ping in parts"),
        pytest.param([write_frame(9, b"x" * 126)], id="a long ping"),
        pytest.param([write_frame(3, b"x")], id="an unknown kind of frame"),
        pytest.param([BEGUN, *[write_frame(0, PART, fin=False)] * 4], id="parts without end"),
        pytest.param([bytes([0x82, 0xFF]) + b"\xff" * 8 + bytes(4)], id="a length beyond all bounds"),
    ],
)
async def test_frames_that_break_the_protocol_end_the_stream_and_are_counted(
    services: RunningCA, monkeypatch: pytest.MonkeyPatch, frames: list[bytes]
) -> None:
    """Nothing is compressed, so that no few bytes become many; and parts have the bound of their whole."""
    monkeypatch.setattr(endpoint, "MAX_MESSAGE_BYTES", 100_000)
    async with FakeSidecar(services) as client:
        assert client.stream.protocol.extensions == [], "offered, and not taken"
        await client.enrol("a")
        await send_raw(client, *frames)
        with pytest.raises(ConnectionClosed):
            while True:
                await client.receive()
    await eventually(lambda: services.hub.get("a") is None)
    counted = 'touchmark_ca_streams_refused_total{code="protocol_error"} 1.0'
    await eventually(lambda: counted in services.metrics.render().decode())


async def test_of_two_streams_of_one_sidecar_the_later_one_counts_and_what_both_send_is_stored_once(
    services: RunningCA, tmp_path: Path
) -> None:
    async with FakeSidecar(services) as first:
        await first.enrol("a")
        await first.send(Decisions(records=(make_decision("1"),), batch=1))
        assert (await first.expect(DecisionsStored)).batch == 1
        context = make_client_context(services, first.write_pem(tmp_path / "a.pem"))
        async with FakeSidecar(services, context) as second:
            await second.resume("a")
            assert len(services.hub) == 1
            both = Decisions(records=(make_decision("2"),), batch=2)
            with contextlib.suppress(ConnectionClosed):  # The CA has ended it, or ends it now.
                await first.send(both)
            for message in (both, Decisions(records=(make_decision("3"),), batch=3)):
                await second.send(message)
                assert (await second.expect(DecisionsStored)).batch == message.batch
            with pytest.raises(ConnectionClosed):
                while True:
                    await first.receive()
    stored = await services.store.decisions.query(DecisionFilter())
    assert sorted(each.record.connection for each in stored) == ["1", "2", "3"]


async def test_a_stream_that_is_cut_in_the_middle_of_a_message_is_closed_and_nothing_of_it_counts(
    services: RunningCA,
) -> None:
    async with FakeSidecar(services) as client:
        await client.enrol("a")
        await send_raw(client, write_frame(2, encode_message(Lookup(address="198.18.0.2")), fin=False))
        client.stream.transport.abort()
        await eventually(lambda: services.hub.get("a") is None)
