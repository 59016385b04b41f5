"""How connections end, and which frames share a record; the rest is proven by the stories' tests."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from OpenSSL import SSL

from shared.model.policy.decision import Ending
from shared.model.policy.reasons import Reason
from sidecar.pump.states import Flow
from sidecar.pump.tunnel_pump import TunnelPump
from sidecar.sockets.ending import count_undelivered, reset
from sidecar.tls.key_limit import RECORD_OVERHEAD_BYTES
from sidecar.tls.records import Records
from sidecar.tunnel.frames import HEADER, HEADER_BYTES, MAX_PAYLOAD_BYTES, FrameType, Opening, encode_opening
from sidecar.tunnel.tunnel import Loss, Tunnel
from sidecar.tunnel.turns import SideState
from tests.sidecar.little_ca import until
from tests.sidecar.pair import Mint
from tests.sidecar.pump.test_plain_pump import tcp_pair
from tests.sidecar.tls.test_handshake import make_tunnels
from tests.sidecar.tunnel.test_tunnel import until_closed

pytestmark = pytest.mark.usefixtures("engine")

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
async def opened_turn(
    request: bytes = b"", *, has_ended: bool = False, on_answer: Callable[[], None] | None = None
) -> AsyncIterator[Turn]:
    """A turn that the application has opened with a request, and that was accepted just now.

    Arguments:
        on_answer: what the server answers is held, and this is called.
    """
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
        if on_answer is not None:
            user.pump.hold_answers(on_answer)
        user.pump.accept(destination)
        try:
            yield Turn(near=near, far=far, app=app, server=server, initiator=initiator, responder=user.pump)
        finally:  # Before the sockets are closed, which a mover's thread may have: also where the test fails.
            initiator.abort(Ending.SHUTDOWN)
            user.pump.abort(Ending.SHUTDOWN)
            near.close()
            far.close()
        await until_closed(near, far)


async def test_a_request_that_is_there_shares_the_record_of_open_and_its_answer_that_of_accept() -> None:
    loop = asyncio.get_running_loop()
    async with opened_turn(b"question") as turn:
        opening = HEADER_BYTES + len(encode_opening(OPENING))
        assert turn.near.sent == RECORD_OVERHEAD_BYTES + opening + HEADER_BYTES + len(b"question")
        assert await loop.sock_recv(turn.server, 100) == b"question"
        turn.server.send(b"answer")
        turn.server.shutdown(socket.SHUT_WR)
        assert await loop.sock_recv(turn.app, 100) == b"answer"
        assert await loop.sock_recv(turn.app, 100) == b""
        # ACCEPT, DATA and END in one record.
        assert turn.far.sent == RECORD_OVERHEAD_BYTES + 3 * HEADER_BYTES + len(b"answer")
        turn.app.shutdown(socket.SHUT_WR)
        ends = [await asyncio.wait_for(pump.finished, 30) for pump in (turn.initiator, turn.responder)]
        assert [end.ending for end in ends] == [Ending.FINISHED, Ending.FINISHED]
        assert (turn.initiator.sent, turn.initiator.received) == (8, 6)
        assert (turn.responder.sent, turn.responder.received) == (8, 6)
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
        await until(lambda: turn.responder.sent == 16)
        assert not turn.far.is_holding


async def test_a_refusal_with_a_newer_releases_reason_refuses_and_leaves_the_tunnel_whole() -> None:
    near, far = await make_tunnels(Mint())
    app, source = tcp_pair()
    user = Responder(far)
    with app, source:
        initiator = TunnelPump(near)
        initiator.open(source, OPENING, answer_s=5)
        await until(lambda: user.pump is not None)
        far.send(FrameType.REFUSE, b"moon_is_full")
        end = await asyncio.wait_for(initiator.finished, 30)
        assert (end.ending, end.refusal) == (Ending.REFUSED, Reason.PROTOCOL_ERROR)
        assert "moon_is_full" in end.detail
        assert near.is_reusable
    near.close()
    far.close()


async def test_what_was_sent_before_a_refusal_isnt_counted_as_sent() -> None:
    near, far = await make_tunnels(Mint())
    app, source = tcp_pair()
    user = Responder(far)
    with app, source:
        app.send(b"early")
        initiator = TunnelPump(near)
        initiator.open(source, OPENING, answer_s=5)
        await until(lambda: user.pump is not None and initiator.sent == 5)
        far.send(FrameType.REFUSE, Reason.PROGRAM_NOT_APPROVED.value.encode())
        end = await asyncio.wait_for(initiator.finished, 30)
        assert (end.ending, end.early, initiator.sent) == (Ending.REFUSED, b"early", 0)
    near.close()
    far.close()


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


class Gate:
    """Keeps one tunnel's records back as a full connection does, or fails their writing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tunnel: Tunnel) -> None:
        self.failure: SSL.Error | None = None
        send, gated = Records.send, tunnel._tls

        def send_through(records: Records, data: bytes | memoryview) -> int:
            if records is gated and self.failure is not None:
                raise self.failure
            return send(records, data)

        monkeypatch.setattr(Records, "send", send_through)


async def end_server_first(turn: Turn) -> None:
    turn.server.shutdown(socket.SHUT_WR)
    assert await asyncio.get_running_loop().sock_recv(turn.app, 100) == b""
    assert turn.near.turns.responder is SideState.ENDED


@pytest.mark.parametrize("size", [0, 8000])
async def test_a_turn_is_finished_only_when_its_last_record_is_written(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """The server has ended first, and the client's last bytes and END meet a full tunnel."""
    loop, payload = asyncio.get_running_loop(), b"x" * size
    async with opened_turn(b"question") as turn:
        assert await loop.sock_recv(turn.server, 100) == b"question"
        await end_server_first(turn)
        gate = Gate(monkeypatch, turn.near)
        gate.failure = SSL.WantWriteError()
        turn.app.send(payload)
        turn.app.shutdown(socket.SHUT_WR)
        await until(lambda: turn.near.is_blocked and turn.near.turns.is_idle)
        assert not turn.initiator.finished.done()
        gate.failure = None
        received = b""
        while chunk := await loop.sock_recv(turn.server, 100_000):
            received += chunk
        assert received == payload
        assert (await asyncio.wait_for(turn.initiator.finished, 30)).ending is Ending.FINISHED
        assert (await asyncio.wait_for(turn.responder.finished, 30)).ending is Ending.FINISHED
        assert turn.near.is_reusable


@pytest.mark.parametrize("failure", [SSL.WantWriteError(), SSL.SysCallError(32, "EPIPE")], ids=["full", "broken"])
async def test_a_turn_whose_last_record_is_never_written_isnt_finished(
    monkeypatch: pytest.MonkeyPatch, failure: SSL.Error
) -> None:
    async with opened_turn() as turn:
        await end_server_first(turn)
        Gate(monkeypatch, turn.near).failure = failure
        turn.app.send(b"last words")
        turn.app.shutdown(socket.SHUT_WR)
        await until(lambda: turn.near.turns.is_idle)
        turn.far.close()
        end = await asyncio.wait_for(turn.initiator.finished, 30)
        assert end.ending is Ending.PEER_LOST


async def test_a_reset_right_behind_the_last_bytes_is_no_end() -> None:
    """Looking whether the application has ended takes its error away from the next read."""
    loop = asyncio.get_running_loop()
    async with opened_turn(b"question") as turn:
        assert await loop.sock_recv(turn.server, 100) == b"question"
        turn.server.send(b"half an answer")
        reset(turn.server)  # Both wait in the kernel when the pump is called back.
        assert await loop.sock_recv(turn.app, 100) == b"half an answer"
        end = await asyncio.wait_for(turn.initiator.finished, 30)
        assert end.ending is Ending.RESET_BY_DESTINATION
        assert (await asyncio.wait_for(turn.responder.finished, 30)).ending is Ending.RESET_BY_DESTINATION


async def test_an_answer_is_read_to_its_end_though_its_server_takes_no_more() -> None:
    """A server that answers without reading all resets the connection behind its answer; writing meets that first."""
    loop, answer = asyncio.get_running_loop(), b"a" * 100_000
    async with opened_turn(b"question") as turn:
        await until(lambda: turn.responder.sent == 8)
        watch = turn.responder._watch
        assert watch is not None
        watch.stop_reading()
        turn.server.send(answer)
        await until(lambda: not count_undelivered(turn.server))
        reset(turn.server)  # "question" is unread.
        turn.app.send(b"another question")
        await until(lambda: turn.responder._outgoing.is_broken)
        watch.start_reading(turn.responder._read_application)
        received = b""
        while len(received) < len(answer):
            received += await loop.sock_recv(turn.app, 100_000)
        assert received == answer
        assert (await asyncio.wait_for(turn.initiator.finished, 30)).ending is Ending.RESET_BY_DESTINATION


async def test_the_clients_reset_ends_the_turn_and_leaves_the_tunnel() -> None:
    loop = asyncio.get_running_loop()
    async with opened_turn(b"question") as turn:
        assert await loop.sock_recv(turn.server, 100) == b"question"
        turn.server.send(b"answer")
        assert await loop.sock_recv(turn.app, 100) == b"answer"
        turn.app.send(b"last words")
        await until(lambda: turn.responder.sent == 18)
        reset(turn.app)
        for pump in (turn.initiator, turn.responder):
            assert (await asyncio.wait_for(pump.finished, 30)).ending is Ending.RESET_BY_SOURCE
            assert (pump.sent, pump.received) == (18, 6)
        assert await loop.sock_recv(turn.server, 100) == b"last words"
        assert not (turn.near.is_closed or turn.far.is_closed)
        assert not (turn.near.is_reusable or turn.far.is_reusable)
        assert turn.far.turns.is_aborting
        turn.far.send(FrameType.ABORT)  # As the story does when it has reset the application.
        assert turn.far.is_reusable


async def test_a_client_that_resets_after_its_end_ends_the_tunnel() -> None:
    """The turn may have ended at the other side, whose next OPEN it would be."""
    loop = asyncio.get_running_loop()
    async with opened_turn(b"question") as turn:
        assert await loop.sock_recv(turn.server, 100) == b"question"
        await until(lambda: turn.near.turns.responder is SideState.SENDING)
        turn.app.shutdown(socket.SHUT_WR)
        await until(lambda: turn.near.turns.initiator is SideState.ENDED)
        reset(turn.app)
        await until(lambda: turn.initiator.finished.done() or turn.server.send(b"a") < 1)  # Writing it meets the reset.
        assert turn.initiator.finished.result().ending is Ending.RESET_BY_SOURCE
        assert turn.near.is_closed


async def test_a_peer_that_doesnt_know_abort_is_told_of_a_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    async with opened_turn(b"question") as turn:
        monkeypatch.setattr(turn.near, "_rekey", None)  # As with `touchmark/1`.
        assert await loop.sock_recv(turn.server, 100) == b"question"
        turn.server.send(b"answer")
        assert await loop.sock_recv(turn.app, 100) == b"answer"
        reset(turn.app)
        assert (await asyncio.wait_for(turn.initiator.finished, 30)).ending is Ending.RESET_BY_SOURCE
        assert turn.near.is_closed
        assert (await asyncio.wait_for(turn.responder.finished, 30)).ending is Ending.RESET_BY_SOURCE


async def test_what_was_said_before_a_reset_waits_for_a_full_tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    async with opened_turn(b"question") as turn:
        assert await loop.sock_recv(turn.server, 100) == b"question"
        gate = Gate(monkeypatch, turn.far)
        gate.failure = SSL.WantWriteError()
        turn.server.send(b"answer")
        await until(lambda: turn.far.is_blocked)
        reset(turn.server)
        turn.app.send(b"x")
        await until(lambda: turn.responder._outgoing.flow is not Flow.OPEN)
        gate.failure = None
        assert await loop.sock_recv(turn.app, 100) == b"answer"
        assert (await asyncio.wait_for(turn.initiator.finished, 30)).ending is Ending.RESET_BY_DESTINATION


async def test_an_open_that_crosses_the_last_turns_reset_may_be_tried_again_with_its_early_bytes() -> None:
    async with opened_turn(b"first", has_ended=True) as turn:
        turn.far.pause()  # The responder sees neither END nor the next OPEN before its application breaks.
        turn.near.turns.receive(FrameType.ACCEPT, 1)
        turn.near.turns.receive(FrameType.END, 1)
        turn.near.detach()
        app, source = tcp_pair()
        with app, source:
            app.send(b"second")
            await asyncio.sleep(0.01)
            assert turn.near.turns.is_idle
            second = TunnelPump(turn.near)
            second.open(source, OPENING, answer_s=5)
            turn.near.turns.receive(FrameType.RESET, 1)
            second.on_frame(FrameType.RESET, b"")
            end = await asyncio.wait_for(second.finished, 30)
        assert (end.ending, end.is_retry_allowed, end.early) == (Ending.PEER_LOST, True, b"second")


async def test_thousands_of_small_frames_in_one_record_are_passed_on() -> None:
    """More buffers than one call of the kernel takes."""
    loop = asyncio.get_running_loop()
    async with opened_turn(b"x") as turn:
        assert await loop.sock_recv(turn.server, 100) == b"x"
        frames = [HEADER.pack(FrameType.DATA, turn.near.turns.send(FrameType.DATA, 1), 1) + b"y" for _ in range(3000)]
        turn.near.write(b"".join(frames))
        received = b""
        while len(received) < 3000:
            received += await loop.sock_recv(turn.server, 100_000)
        assert received == b"y" * 3000
