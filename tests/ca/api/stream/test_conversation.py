"""A sidecar that doesn't read loses its stream."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, cast

import pytest
from aiohttp import WSMessage, WSMsgType

from ca.api.stream import conversation, endpoint
from ca.api.stream.certificate_requests import CertificateRequests
from ca.api.stream.messages import SidecarMessages
from ca.distribution.session import Session
from ca.metrics import Metrics
from ca.runtime.compose import RunningCA
from shared.model.identity.identity import Workload
from shared.model.wire.messages import (
    CertificateRefused,
    CertificateRequest,
    DecisionsStored,
    FromSidecar,
    Lookup,
    Subscribe,
    encode_message,
)
from tests.ca.running import FakeSidecar, eventually


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
