"""The end of a sidecar as its peers see it: idle tunnels say CLOSING, and no connection is lost to that."""

from __future__ import annotations

import asyncio

import pytest

from shared.model.policy.decision import Ending
from sidecar import inbound
from sidecar.draining import Draining
from tests.sidecar.little_ca import until
from tests.sidecar.pair import Pair, running_pair
from tests.sidecar.test_outbound import echo


async def ask(pair: Pair, text: bytes) -> bytes:
    reader, writer = await pair.connect()
    writer.write(text)
    writer.write_eof()
    try:
        return await reader.read()
    finally:
        writer.close()


def test_watchers_are_told_once_and_latecomers_at_once() -> None:
    draining, told = Draining(), list[str]()
    gone = lambda: told.append("gone")  # noqa: E731 (the same object is forgotten)
    draining.watch(lambda: told.append("first"))
    draining.watch(gone)
    draining.forget(gone)
    draining.begin()
    draining.begin()
    assert told == ["first"]
    draining.watch(lambda: told.append("late"))
    assert told == ["first", "late"]
    assert draining.has_begun
    assert len(draining) == 0


async def test_an_idle_tunnel_is_given_up_by_both_sides_when_its_responder_drains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inbound, "_CLOSING_S", 600.0)  # Not by the responder's deadline: the initiator ends it.
    async with running_pair(echo) as pair:
        assert await ask(pair, b"one") == b"one"
        await until(lambda: len(pair.client.sidecar.connector) == 1)
        pair.server.sidecar.draining.begin()
        await until(lambda: len(pair.client.sidecar.connector) == 0 and not pair.tasks)


async def test_an_open_that_crosses_closing_is_tried_again_on_another_tunnel() -> None:
    async with running_pair(echo) as pair:
        assert await ask(pair, b"one") == b"one"
        await until(lambda: len(pair.client.sidecar.connector) == 1)
        (tunnel,) = pair.client.sidecar.connector._pool._order
        tunnel.pause()  # CLOSING comes, and isn't read before OPEN is written.
        pair.server.sidecar.draining.begin()
        pair.server.sidecar.draining = Draining()
        await asyncio.sleep(0.05)
        assert await ask(pair, b"two" * 10_000) == b"two" * 10_000
        await until(lambda: len(pair.client.records) == 2)
        assert pair.client.records[1].ending is Ending.FINISHED
        assert pair.tunnels_accepted == 2
        assert len(pair.server.records) == 2


async def test_a_connection_that_lives_ends_by_itself_and_its_tunnel_then_closes() -> None:
    async with running_pair(echo) as pair:
        reader, writer = await pair.connect()
        writer.write(b"begun")
        await until(lambda: len(pair.server.sidecar.connections) == 1)
        pair.server.sidecar.draining.begin()
        writer.write(b" and ended")
        writer.write_eof()
        assert await reader.read() == b"begun and ended"
        writer.close()
        await until(lambda: not pair.tasks)
        assert pair.server.records[0].ending is Ending.FINISHED
        assert len(pair.client.sidecar.connector) == 0
