"""Turns that a thread moves: when they are lent, that they need no event loop then, and how they come back."""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
import weakref
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest

from shared.model.policy.decision import Ending
from sidecar.native.engine import choose_workers, load
from sidecar.tunnel import lending as lending_module
from sidecar.tunnel import native_tunnel
from sidecar.tunnel.lending import count_turns, lending_of
from sidecar.tunnel.native_tunnel import STEADY_CALLS, NativeTunnel
from tests.sidecar.little_ca import until
from tests.sidecar.pump.test_tunnel_pump import Turn, opened_turn

_native = load()
if _native is None:
    pytest.skip("the native engine isn't built: it takes a C compiler and Python's headers", allow_module_level=True)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing comes back because a busy machine keeps the event loop waiting, or a test does."""
    monkeypatch.setattr(lending_module, "_ALLOWED_NS", 1 << 60)


async def exchange(turn: Turn) -> None:
    """One request and its answer."""
    loop = asyncio.get_running_loop()
    turn.app.send(b"question")
    assert await loop.sock_recv(turn.server, 100) == b"question"
    turn.server.send(b"answer")
    assert await loop.sock_recv(turn.app, 100) == b"answer"


def is_lent(turn: Turn) -> list[bool]:
    assert isinstance(turn.near, NativeTunnel)
    assert isinstance(turn.far, NativeTunnel)
    return [turn.near.is_lent, turn.far.is_lent]


@asynccontextmanager
async def lent_turn() -> AsyncIterator[Turn]:
    """A turn that both ends have lent."""
    async with opened_turn(b"first") as turn:
        assert await asyncio.get_running_loop().sock_recv(turn.server, 100) == b"first"
        for _ in range(1 + STEADY_CALLS):
            await exchange(turn)
        await until(lambda: all(is_lent(turn)))
        yield turn


async def test_a_loop_has_threads_of_its_own_and_one_more_is_started_when_each_has_a_turn(workers: int) -> None:
    loop = asyncio.get_running_loop()
    assert _native is not None
    assert count_turns(loop) == []
    lending = lending_of(loop, _native)
    assert lending is lending_of(loop, _native)
    seen = [count_turns(loop)]
    for number in range(4):
        lending.find_worker(loop).note(number, lambda: None)
        seen.append(count_turns(loop))
    assert seen == ([[0], [1], [2], [3], [4]] if workers == 1 else [[0], [1], [1, 1], [2, 1], [2, 2]])
    fewest = lending.workers[-1]
    fewest.forget(3)
    assert lending.find_worker(loop) is fewest


async def test_where_no_second_thread_can_be_started_the_first_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, before = asyncio.get_running_loop(), choose_workers(2)
    try:
        assert _native is not None
        lending = lending_of(loop, _native)
        lending.find_worker(loop).note(0, lambda: None)

        def fail(*_: object) -> None:
            raise OSError(errno.EMFILE, "no descriptors left")

        with monkeypatch.context() as patch:
            patch.setattr(lending_module, "start_mover", fail)
            assert lending.find_worker(loop) is lending.workers[0]
        assert lending.find_worker(loop) is lending.workers[1]
    finally:
        choose_workers(before)


def test_its_threads_end_with_it(workers: int) -> None:
    assert _native is not None
    loop = asyncio.new_event_loop()
    lending = lending_of(loop, _native)
    lending.allow(loop)
    for number in range(workers):
        lending.find_worker(loop).note(number, lambda: None)
    kept = [weakref.ref(each) for each in (lending, *lending.workers)]
    assert len(kept) == 1 + workers
    loop.close()
    del lending, loop
    gc.collect()
    assert [each() for each in kept] == [None] * len(kept)


async def test_a_turn_of_one_request_isnt_lent() -> None:
    async with opened_turn() as turn:
        await exchange(turn)
        assert is_lent(turn) == [False, False]


@pytest.mark.usefixtures("workers")
async def test_a_steady_turn_goes_on_while_the_event_loop_does_something_else() -> None:
    async with lent_turn() as turn:
        for each in (turn.app, turn.server):
            each.settimeout(60)
        before = turn.initiator.sent, turn.initiator.received
        for _ in range(100):  # Nothing here gives the loop a turn.
            turn.app.send(b"question")
            assert turn.server.recv(100) == b"question"
            turn.server.send(b"answer")
            assert turn.app.recv(100) == b"answer"
        assert is_lent(turn) == [True, True]
        assert (turn.initiator.sent, turn.initiator.received) == (before[0] + 800, before[1] + 600)
        assert (turn.responder.sent, turn.responder.received) == (before[0] + 800, before[1] + 600)


def read_exactly(connection: socket.socket, size: int) -> bytes:
    came = bytearray()
    while len(came) < size:
        data = connection.recv(1 << 16)
        assert data
        came += data
    return bytes(came)


@pytest.mark.usefixtures("workers")
async def test_bulk_whose_sinks_are_full_again_and_again_stays_with_the_thread() -> None:
    """Both ways at once, and nothing gives the event loop a turn."""
    size = 8 << 20
    up, down = bytes(range(256)) * (size // 256), bytes(reversed(range(256))) * (size // 256)
    async with lent_turn() as turn:
        before = turn.initiator.sent, turn.initiator.received
        for each in (turn.app, turn.server):
            each.settimeout(60)
        with ThreadPoolExecutor(3) as threads:
            writing = [threads.submit(turn.app.sendall, up), threads.submit(turn.server.sendall, down)]
            reading = threads.submit(read_exactly, turn.server, size)
            assert read_exactly(turn.app, size) == down
            assert reading.result() == up
            for written in writing:
                written.result()
        assert is_lent(turn) == [True, True]
        assert (turn.initiator.sent - before[0], turn.initiator.received - before[1]) == (size, size)
        assert (turn.responder.sent, turn.responder.received) == (turn.initiator.sent, turn.initiator.received)


async def ask(turn: Turn) -> None:
    """One request, which nothing answers."""
    turn.app.send(b"question")
    assert await asyncio.get_running_loop().sock_recv(turn.server, 100) == b"question"


async def ask_until_lent(turn: Turn) -> None:
    async with asyncio.timeout(60):
        while is_lent(turn) != [True, True]:
            await ask(turn)


@pytest.mark.usefixtures("workers")
async def test_a_turn_whose_answers_are_held_is_lent_and_its_first_answer_comes_back_unread() -> None:
    loop, told = asyncio.get_running_loop(), list[tuple[bool, int]]()
    async with opened_turn(on_answer=lambda: told.append((is_lent(turn)[1], turn.responder.received))) as turn:
        await ask_until_lent(turn)
        turn.server.send(b"answer")
        await until(lambda: bool(told))
        assert told == [(False, 0)]
        for _ in range(5 * STEADY_CALLS):  # It isn't lent again before its answer may be read.
            await ask(turn)
        assert is_lent(turn) == [True, False]
        assert turn.responder.find_lendable() is None
        turn.responder.release_answers()
        assert turn.responder.find_lendable() is not None
        assert await loop.sock_recv(turn.app, 100) == b"answer"
        await ask_until_lent(turn)


async def test_answers_that_are_released_while_a_turn_is_lent_are_read() -> None:
    loop = asyncio.get_running_loop()
    async with opened_turn(on_answer=lambda: None) as turn:
        await ask_until_lent(turn)
        turn.responder.release_answers()
        assert is_lent(turn) == [True, False]
        turn.server.send(b"answer")
        assert await loop.sock_recv(turn.app, 100) == b"answer"


async def test_turns_are_spread_over_the_threads(workers: int) -> None:
    async with lent_turn() as first, lent_turn() as second:
        assert is_lent(first) + is_lent(second) == [True] * 4
        assert count_turns(asyncio.get_running_loop()) == ([4] if workers == 1 else [2, 2])
    assert sum(count_turns(asyncio.get_running_loop())) == 0


@pytest.mark.usefixtures("workers")
async def test_the_end_of_a_turn_leaves_those_beside_it_with_their_threads() -> None:
    async with lent_turn() as kept:
        async with lent_turn() as ended:
            ended.initiator.abort(Ending.POLICY_CHANGED)
            await asyncio.wait_for(ended.responder.finished, 60)
            assert is_lent(ended) == [False, False]
        for each in (kept.app, kept.server):
            each.settimeout(60)
        for _ in range(10):  # Nothing here gives the loop a turn.
            kept.app.send(b"question")
            assert kept.server.recv(100) == b"question"
            kept.server.send(b"answer")
            assert kept.app.recv(100) == b"answer"
        assert is_lent(kept) == [True, True]


@pytest.mark.usefixtures("workers")
async def test_an_event_loop_says_that_it_lives_while_anything_is_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lending_module, "_PERIOD_S", 0.0)
    loop = asyncio.get_running_loop()
    assert _native is not None
    lending = lending_of(loop, _native)
    async with lent_turn() as turn:
        for _ in range(3):
            for worker in lending.workers:
                worker.mover.allow(0)  # Until the loop says it again.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await exchange(turn)
        assert lending._is_timed
    await until(lambda: not lending._is_timed)


@pytest.mark.usefixtures("workers")
async def test_its_end_is_passed_on_behind_the_last_byte_and_the_tunnel_is_used_again() -> None:
    loop = asyncio.get_running_loop()
    async with lent_turn() as turn:
        for each, other in ((turn.app, turn.server), (turn.server, turn.app)):
            each.send(b"last")
            each.shutdown(1)
            assert await loop.sock_recv(other, 100) == b"last"
            assert await loop.sock_recv(other, 100) == b""
        ends = [await asyncio.wait_for(pump.finished, 60) for pump in (turn.initiator, turn.responder)]
        assert [end.ending for end in ends] == [Ending.FINISHED, Ending.FINISHED]
        assert turn.initiator.sent == turn.responder.sent == 5 + (1 + STEADY_CALLS) * 8 + 4
        assert turn.near.sent == turn.far.received
        assert turn.near.is_reusable


@pytest.mark.usefixtures("workers")
async def test_an_abort_takes_it_back_first() -> None:
    async with lent_turn() as turn:
        turn.initiator.abort(Ending.POLICY_CHANGED)
        assert is_lent(turn)[0] is False
        end = await asyncio.wait_for(turn.responder.finished, 60)
        assert end.ending in (Ending.RESET_BY_SOURCE, Ending.PEER_LOST)


@pytest.mark.usefixtures("workers")
async def test_an_error_of_tls_in_the_thread_is_told_by_its_name() -> None:
    async with lent_turn() as turn:
        turn.near.connection.send(b"\x17\x03\x03\x00\x20" + bytes(32))  # A record of no key.
        end = await asyncio.wait_for(turn.responder.finished, 60)
        assert end.ending is Ending.PEER_LOST
        assert "bad record mac" in end.detail


class _Returned:
    """A stay, in place of a thread's, of which this comes back."""

    def __init__(self, result: tuple[object, ...]) -> None:
        self.result = result
        self.mover = self

    def forget(self, number: int) -> None:
        pass

    def recall(self, number: int) -> tuple[object, ...]:
        return self.result


@pytest.mark.parametrize("is_broken", [False, True])
async def test_what_waits_for_the_application_is_taken_before_its_end_that_comes_back_with_it(
    monkeypatch: pytest.MonkeyPatch, is_broken: bool
) -> None:
    from sidecar.native import _loop

    loop = asyncio.get_running_loop()
    async with lent_turn() as turn:
        near = turn.near
        assert isinstance(near, NativeTunnel)
        assert near._worker is not None
        near._worker.forget(near._number)
        counts = near._worker.mover.recall(near._number)[:4]
        upward = _loop.BROKEN if is_broken else _loop.ENDED, None, 1, errno.ECONNRESET, 0
        returned = _Returned((*counts, upward, (b"rest", None, 0, 1, 0, 0)))
        monkeypatch.setattr(near, "_worker", returned)
        near.take_back()
        if is_broken:
            assert (await asyncio.wait_for(turn.initiator.finished, 60)).ending is Ending.RESET_BY_SOURCE
        else:
            assert await loop.sock_recv(turn.server, 100) == b""
            assert await loop.sock_recv(turn.app, 100) == b"rest"


async def test_what_comes_back_is_lent_again_only_after_more_calls() -> None:
    async with lent_turn() as turn:
        near = turn.near
        assert isinstance(near, NativeTunnel)
        near.take_back()
        for _ in range(STEADY_CALLS):
            await exchange(turn)
        assert not near.is_lent
        for _ in range(STEADY_CALLS):  # Each is two calls.
            await exchange(turn)
        await until(lambda: near.is_lent)


async def test_without_a_thread_the_event_loop_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "no descriptors left")

    monkeypatch.setattr(native_tunnel, "lending_of", fail)
    async with opened_turn() as turn:
        for _ in range(3 * STEADY_CALLS):
            await exchange(turn)
        assert is_lent(turn) == [False, False]
