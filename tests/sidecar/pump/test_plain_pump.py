"""The plain pump: bytes, half-closes, back-pressure, and from whom a reset came."""

from __future__ import annotations

import asyncio
import socket

import pytest

from shared.model.policy.decision import Ending
from sidecar.pump import plain_pump
from sidecar.pump.plain_pump import PlainPump
from sidecar.pump.states import Flow
from sidecar.sockets.ending import count_undelivered, reset
from tests.sidecar.little_ca import until


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected, non-blocking TCP sockets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    near.setblocking(False)
    far.setblocking(False)
    return near, far


async def test_bytes_half_closes_and_counts_pass_in_both_directions() -> None:
    loop = asyncio.get_running_loop()
    (app, source), (destination, server) = tcp_pair(), tcp_pair()
    with app, source, destination, server:
        pump = PlainPump(loop, source, destination)
        pump.start()
        await loop.sock_sendall(app, b"question")
        app.shutdown(socket.SHUT_WR)
        assert await loop.sock_recv(server, 100) == b"question"
        assert await loop.sock_recv(server, 100) == b""
        await loop.sock_sendall(server, b"answer!")
        server.shutdown(socket.SHUT_WR)
        assert await loop.sock_recv(app, 100) == b"answer!"
        assert await loop.sock_recv(app, 100) == b""
        assert (await asyncio.wait_for(pump.finished, 30)).ending is Ending.FINISHED
        assert (pump.sent, pump.received) == (8, 7)


async def test_a_slow_reader_loses_nothing() -> None:
    loop = asyncio.get_running_loop()
    payload = bytes(range(256)) * 20_000
    (app, source), (destination, server) = tcp_pair(), tcp_pair()
    with app, source, destination, server:
        pump = PlainPump(loop, source, destination)
        pump.start()
        sending = asyncio.ensure_future(loop.sock_sendall(app, payload))
        await asyncio.sleep(0.2)
        received = b""
        while len(received) < len(payload):
            received += await loop.sock_recv(server, 300_000)
        await sending
        assert received == payload
        pump.abort(Ending.SHUTDOWN)
        assert pump.finished.result().ending is Ending.SHUTDOWN


@pytest.mark.parametrize(
    ("who", "ending"), [(0, Ending.RESET_BY_SOURCE), (1, Ending.RESET_BY_DESTINATION)], ids=["source", "destination"]
)
async def test_a_reset_is_told_from_an_end_and_from_whom(who: int, ending: Ending) -> None:
    loop = asyncio.get_running_loop()
    (app, source), (destination, server) = tcp_pair(), tcp_pair()
    with app, source, destination, server:
        pump = PlainPump(loop, source, destination)
        pump.start()
        reset((app, server)[who])
        assert (await asyncio.wait_for(pump.finished, 30)).ending is ending


async def answer_until_blocked(pump: PlainPump, server: socket.socket) -> int:
    """Answer more than the application's kernel takes, and have all of it reach the sidecar's; return how much."""
    sent = 0
    while pump._back.flow is not Flow.BLOCKED:
        sent += server.send(bytes(16 * 1024))
        await until(lambda: not count_undelivered(server))
    return sent


async def test_an_answer_that_waits_is_delivered_though_its_server_has_reset() -> None:
    loop = asyncio.get_running_loop()
    (app, source), (destination, server) = tcp_pair(), tcp_pair()
    with app, source, destination, server:
        pump = PlainPump(loop, source, destination)
        pump.start()
        sent = await answer_until_blocked(pump, server)
        sent += server.send(b"the end of the answer")  # It stays in the kernel: nothing is read for a blocked flow.
        await until(lambda: not count_undelivered(server))
        reset(server)
        app.send(b"another question")  # Writing it meets the reset.
        await until(lambda: pump._forth.flow is Flow.DROPPED)
        got = bytearray()
        while len(got) < sent:
            got += await loop.sock_recv(app, 300_000)
        assert got.endswith(b"the end of the answer")
        end = await asyncio.wait_for(pump.finished, 30)
        assert (end.ending, end.unsent) == (Ending.RESET_BY_DESTINATION, b"")
        with pytest.raises(BlockingIOError):  # No end came: the caller resets it.
            app.recv(1)


async def test_an_answer_that_isnt_read_is_waited_for_within_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_pump, "DELIVERY_DEADLINE_S", 0.05)
    (app, source), (destination, server) = tcp_pair(), tcp_pair()
    with app, source, destination, server:
        pump = PlainPump(asyncio.get_running_loop(), source, destination)
        pump.start()
        await answer_until_blocked(pump, server)
        reset(server)
        app.send(b"another question")
        end = await asyncio.wait_for(pump.finished, 30)
        assert end.ending is Ending.RESET_BY_DESTINATION
        assert end.unsent


async def test_of_two_resets_the_first_one_counts() -> None:
    (app, source), (destination, server) = tcp_pair(), tcp_pair()
    with app, source, destination, server:
        pump = PlainPump(asyncio.get_running_loop(), source, destination)
        pump.start()
        await answer_until_blocked(pump, server)
        reset(server)
        app.send(b"another question")
        await until(lambda: pump._forth.flow is Flow.DROPPED)
        reset(app)
        end = await asyncio.wait_for(pump.finished, 30)
        assert end.ending is Ending.RESET_BY_DESTINATION
