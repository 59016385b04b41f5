"""The poller against real sockets: who is called, who no more, and that nothing is left to spin on."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from sidecar.sockets.polling import Poller, poller_of
from tests.sidecar.little_ca import until
from tests.sidecar.pump.test_plain_pump import tcp_pair


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0.005)


async def test_a_loop_has_one_poller() -> None:
    loop = asyncio.get_running_loop()
    assert poller_of(loop) is poller_of(loop)


async def test_the_reader_is_called_while_bytes_wait_and_no_more_after_it_stops() -> None:
    near, far = tcp_pair()
    with near, far, poller_of(asyncio.get_running_loop()).watch(near) as watch:
        calls: list[bytes] = []

        def read() -> None:
            calls.append(near.recv(1))
            if len(calls) == 2:
                watch.stop_reading()

        watch.start_reading(read)
        far.send(b"abc")
        await until(lambda: len(calls) == 2)
        await settle()
        assert calls == [b"a", b"b"]
        assert not watch.is_ending
        watch.start_reading(read)
        await until(lambda: len(calls) == 3)


async def test_the_end_is_announced_with_the_last_bytes() -> None:
    near, far = tcp_pair()
    with near, far, poller_of(asyncio.get_running_loop()).watch(near) as watch:
        seen: list[tuple[bytes, bool]] = []

        def read() -> None:
            seen.append((near.recv(100), watch.is_ending))
            watch.stop_reading()

        far.send(b"last words")
        far.shutdown(socket.SHUT_WR)
        watch.start_reading(read)
        await until(lambda: seen)
        assert seen == [(b"last words", True)]


async def test_nobody_waiting_leaves_nothing_to_spin_on() -> None:
    loop = asyncio.get_running_loop()
    poller = Poller(loop)
    near, far = tcp_pair()
    with near, far:
        watch = poller.watch(near)
        watch.start_reading(lambda: None)
        watch.stop_reading()
        far.send(b"unread")
        await settle()
        assert poller.poll_now() == []
        watch.start_reading(watch.close)  # Closed in its own callback, while the socket lives on with its bytes.
        await settle()
        assert poller.poll_now() == []
    loop.remove_reader(poller.fileno())


async def test_a_broken_socket_is_reported_to_whoever_waits() -> None:
    near, far = tcp_pair()
    with near, poller_of(asyncio.get_running_loop()).watch(near) as watch:
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.close()
        await asyncio.wait_for(watch.wait_readable(), 30)
        assert watch.is_ending
        await asyncio.wait_for(watch.wait_writable(), 30)


async def test_who_closes_a_watch_on_a_socket_that_has_ended_isnt_told_of_it_again() -> None:
    poller = poller_of(asyncio.get_running_loop())
    near, far = tcp_pair()
    with near, far:
        watch, reported = poller.watch(near), []

        def close() -> None:
            watch.close()
            reported.append(poller.poll_now())

        watch.start_reading(close)
        far.shutdown(socket.SHUT_WR)
        await until(lambda: reported)
        assert reported == [[]]


async def test_a_wait_has_a_deadline_if_one_is_given() -> None:
    near, far = tcp_pair()
    with near, far, poller_of(asyncio.get_running_loop()).watch(near) as watch:
        with pytest.raises(TimeoutError):
            await watch.wait_readable(0.0)
        await asyncio.wait_for(watch.wait_writable(30.0), 30)
        far.send(b"x")
        await asyncio.wait_for(watch.wait_readable(30.0), 30)


async def test_a_full_socket_is_writable_once_its_peer_reads() -> None:
    near, far = tcp_pair()
    with near, far, poller_of(asyncio.get_running_loop()).watch(near) as watch:
        try:
            while True:
                near.send(bytes(100_000))
        except BlockingIOError:
            pass
        waiting = asyncio.ensure_future(watch.wait_writable())
        await settle()
        assert not waiting.done()
        while not waiting.done():
            far.setblocking(False)
            try:
                far.recv(1_000_000)
            except BlockingIOError:
                await asyncio.sleep(0.001)


async def test_a_later_watch_on_the_same_socket_takes_over() -> None:
    near, far = tcp_pair()
    poller = poller_of(asyncio.get_running_loop())
    with near, far:
        first = poller.watch(near)
        first.start_reading(lambda: None)
        first.close()
        with poller.watch(near) as second:
            far.send(b"x")
            await asyncio.wait_for(second.wait_readable(), 30)


async def test_a_reused_descriptor_belongs_to_its_new_socket() -> None:
    poller = poller_of(asyncio.get_running_loop())
    near, far = tcp_pair()
    watch = poller.watch(near)
    watch.start_reading(lambda: None)
    number = near.fileno()
    watch.close()
    near.close()
    far.close()
    near, far = tcp_pair()
    with near, far:
        assert number in (near.fileno(), far.fileno())
        reused, other = (near, far) if near.fileno() == number else (far, near)
        with poller.watch(reused) as watch:
            other.send(b"x")
            await asyncio.wait_for(watch.wait_readable(), 30)


async def test_a_held_reader_is_told_of_once_and_reads_when_it_is_released() -> None:
    near, far = tcp_pair()
    with near, far, poller_of(asyncio.get_running_loop()).watch(near) as watch:
        calls: list[bytes] = []
        watch.hold_reading(lambda: calls.append(b"told"))
        watch.start_reading(lambda: calls.append(near.recv(1)))
        assert watch.is_reading
        far.send(b"ab")
        await until(lambda: calls)
        await settle()
        assert (calls, watch.is_reading, watch.is_held) == ([b"told"], False, True)
        watch.release_reading()
        await until(lambda: len(calls) == 3)
        assert calls == [b"told", b"a", b"b"]


async def test_who_is_told_may_release_at_once_and_a_reader_that_stops_is_not_released() -> None:
    near, far = tcp_pair()
    with near, far, poller_of(asyncio.get_running_loop()).watch(near) as watch:
        calls: list[bytes] = []
        watch.hold_reading(watch.release_reading)
        watch.start_reading(lambda: calls.append(near.recv(1)))
        far.send(b"a")
        await until(lambda: calls == [b"a"])
        watch.stop_reading()
        watch.hold_reading(lambda: calls.append(b"told"))
        watch.start_reading(lambda: calls.append(near.recv(1)))
        watch.stop_reading()
        watch.release_reading()
        far.send(b"b")
        await settle()
        assert calls == [b"a"]


async def test_a_second_watch_that_waits_for_nothing_yet_leaves_nothing_to_spin_on() -> None:
    """A handshake peeks at the ClientHello, then waits for its turn while that can still be read."""
    near, far = tcp_pair()
    poller = poller_of(asyncio.get_running_loop())
    with near, far:
        far.send(b"x")
        with poller.watch(near) as first:
            await first.wait_readable()
        with poller.watch(near) as second:
            await settle()
            assert poller.poll_now() == []
            await second.wait_readable()
            assert near.recv(1) == b"x"


async def test_a_lent_socket_is_nobodys_here_until_it_is_regained() -> None:
    near, far = tcp_pair()
    with near, far, poller_of(asyncio.get_running_loop()).watch(near) as watch:
        calls: list[bytes] = []
        watch.start_reading(lambda: calls.append(near.recv(100)))
        watch.lend()
        far.send(b"for the other")
        await settle()
        assert calls == []
        watch.regain()
        await until(lambda: calls == [b"for the other"])
        watch.lend()
        watch.close()
        watch.regain()  # Too late: it is closed.
        far.send(b"for nobody")
        await settle()
        assert len(calls) == 1
