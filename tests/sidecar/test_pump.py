"""The plain pump, how connections end, and which frames share a record; the rest is proven by the stories' tests."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from shared.model.decision import Ending
from sidecar.pump import PlainPump, TunnelPump, reset, reset_after_delivery
from sidecar.tunnel.frames import MAX_PAYLOAD_BYTES, Opening
from sidecar.tunnel.tunnel import Loss, Tunnel
from sidecar.tunnel.turns import SideState
from tests.sidecar.little_ca import until
from tests.sidecar.pair import Mint


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
        assert (await asyncio.wait_for(pump.finished, 2)).ending is Ending.FINISHED
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
        assert (await asyncio.wait_for(pump.finished, 2)).ending is ending


async def test_a_reset_after_delivery_delivers_first() -> None:
    loop = asyncio.get_running_loop()
    near, far = tcp_pair()
    with near, far:
        unsent = b"z" * 3_000_000
        ending = asyncio.ensure_future(reset_after_delivery(loop, near, unsent, deadline_s=5))
        received = 0
        with pytest.raises(ConnectionResetError):
            while chunk := await loop.sock_recv(far, 65536):
                received += len(chunk)
        await ending
        assert received == len(unsent)


async def test_a_reset_does_not_wait_for_a_reader_for_ever() -> None:
    loop = asyncio.get_running_loop()
    near, far = tcp_pair()
    with near, far:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
        await asyncio.wait_for(reset_after_delivery(loop, near, b"z" * 30_000_000, deadline_s=0.2), 2)
        assert near.fileno() == -1


OPENING = Opening(connection="00" * 8, destination=("198.18.0.2", 5432), source=("198.18.0.1", 1))


class Responder:
    """The user of the responder's end: puts a pump in its place when OPEN has come, as the story does."""

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        self.pump: TunnelPump | None = None
        tunnel.attach(self)

    def on_data(self, payloads: list[memoryview]) -> None:
        """DATA before a pump: none."""

    def on_frame(self, frame: int, payload: bytes) -> None:
        self.pump = TunnelPump(self._tunnel)
        self._tunnel.user = self.pump

    def on_drained(self) -> None:
        """Nothing waits."""

    def on_lost(self, loss: Loss, detail: str) -> None:
        """It ends with the test."""


@dataclass(kw_only=True)
class Turn:
    """One turn of a tunnel with both applications."""

    near: Tunnel
    far: Tunnel
    app: socket.socket
    server: socket.socket
    initiator: TunnelPump
    responder: TunnelPump


@asynccontextmanager
async def opened_turn(request: bytes = b"", *, has_ended: bool = False) -> AsyncIterator[Turn]:
    """A turn that the application has opened with a request, and that was accepted just now."""
    from tests.sidecar.tls.test_handshake import make_tunnels  # It takes ``tcp_pair`` from here.

    near, far = await make_tunnels(Mint())
    (app, source), (destination, server) = tcp_pair(), tcp_pair()
    user = Responder(far)
    with app, source, destination, server:
        app.send(request)
        if has_ended:
            app.shutdown(socket.SHUT_WR)
        await asyncio.sleep(0.01)
        initiator = TunnelPump(near)
        initiator.open(source, OPENING, answer_s=5)
        await until(lambda: user.pump is not None)
        assert user.pump is not None
        user.pump.accept(destination)
        yield Turn(near=near, far=far, app=app, server=server, initiator=initiator, responder=user.pump)
        initiator.abort(Ending.SHUTDOWN)
        user.pump.abort(Ending.SHUTDOWN)
        near.close()
        far.close()
        await asyncio.sleep(0.05)


async def test_a_request_that_is_there_shares_the_record_of_open_and_its_answer_that_of_accept() -> None:
    loop = asyncio.get_running_loop()
    async with opened_turn(b"question") as turn:
        assert turn.near.records == 1
        assert await loop.sock_recv(turn.server, 100) == b"question"
        read = turn.far.records  # OPEN and DATA.
        turn.server.send(b"answer")
        turn.server.shutdown(socket.SHUT_WR)
        assert await loop.sock_recv(turn.app, 100) == b"answer"
        assert await loop.sock_recv(turn.app, 100) == b""
        assert turn.far.records == read + 1  # ACCEPT, DATA and END.
        turn.app.shutdown(socket.SHUT_WR)
        ends = [await asyncio.wait_for(pump.finished, 2) for pump in (turn.initiator, turn.responder)]
        assert [end.ending for end in ends] == [Ending.FINISHED, Ending.FINISHED]
        assert (turn.initiator.sent, turn.initiator.received) == (8, 6)
        assert (turn.responder.sent, turn.responder.received) == (6, 8)
        assert turn.near.is_reusable
        assert turn.far.is_reusable


async def test_an_application_that_waits_for_the_server_to_speak_gets_its_accept_at_once() -> None:
    loop = asyncio.get_running_loop()
    async with opened_turn() as turn:
        assert turn.far.turns.responder is SideState.SENDING
        assert not turn.far.is_holding
        turn.server.send(b"220 hello")
        assert await loop.sock_recv(turn.app, 100) == b"220 hello"


async def test_a_request_with_its_end_is_carried_though_the_answer_is_late() -> None:
    loop = asyncio.get_running_loop()
    async with opened_turn(b"question", has_ended=True) as turn:
        assert await loop.sock_recv(turn.server, 100) == b"question"
        assert await loop.sock_recv(turn.server, 100) == b""
        await until(lambda: turn.near.turns.responder is SideState.SENDING)  # ACCEPT went alone.
        turn.server.send(b"late")
        assert await loop.sock_recv(turn.app, 100) == b"late"


async def test_an_initiator_that_goes_on_sending_gets_its_accept_at_once() -> None:
    async with opened_turn(b"part one") as turn:
        assert turn.far.is_holding
        turn.app.send(b"part two")
        await until(lambda: turn.responder.received == 16)
        assert not turn.far.is_holding


async def test_an_end_right_after_much_data_loses_none_of_it() -> None:
    loop = asyncio.get_running_loop()
    for size in (MAX_PAYLOAD_BYTES - 5, MAX_PAYLOAD_BYTES - 4, MAX_PAYLOAD_BYTES, MAX_PAYLOAD_BYTES + 1, 60_000):
        payload = bytes(range(256)) * (size // 256 + 1)
        payload = payload[:size]
        async with opened_turn() as turn:
            turn.app.send(payload)
            turn.app.shutdown(socket.SHUT_WR)
            received = b""
            while chunk := await loop.sock_recv(turn.server, 100_000):
                received += chunk
            assert received == payload, size
