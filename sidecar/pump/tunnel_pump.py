"""Pumps one turn of a tunnel: an application connection's bytes, and its end as the other end ended.

Belongs here: what frames mean to both directions, the answer to OPEN, how the turn ends; callbacks of the event loop
only, with one future for the end. Doesn't: moving bytes (``to_tunnel.py``, ``from_tunnel.py``), plain connections on
both sides (``plain_pump.py``), decisions and records.

ACCEPT and the answer to an early request share a record; what else does, ``to_tunnel.py`` says. Long, because one
turn's states are shared by all of its callbacks.
"""

from __future__ import annotations

import asyncio
import socket
from time import monotonic
from typing import Final

from shared.model.errors import ProtocolError
from shared.model.policy.decision import Ending
from shared.model.policy.reasons import Reason
from shared.model.trust.certificate import VerifiedPeer
from sidecar.pump.ends import Finished, PumpEnd, reset_by
from sidecar.pump.from_tunnel import FromTunnel
from sidecar.pump.guard import UNGUARDED, Guard
from sidecar.pump.states import Answer, Flow, change_answer
from sidecar.pump.to_tunnel import ToTunnel
from sidecar.sockets.ending import DELIVERY_DEADLINE_S, count_undelivered
from sidecar.sockets.polling import Callback, Watch
from sidecar.tls.role import Role
from sidecar.tunnel.frames import MAX_PAYLOAD_BYTES, FrameType, Opening, decode_refusal, encode_reason
from sidecar.tunnel.native_tunnel import Carried, Lendable, NativeTunnel
from sidecar.tunnel.tunnel import Loss, Tunnel

_OPEN: Final = Flow.OPEN  # Looked up for every read.
# By then a living peer's kernel has acknowledged OPEN, with several retransmissions in between.
ACKNOWLEDGED_S: Final = 3.0
# What a responder may say before it sees an OPEN that is on its way.
_LAST_WORDS: Final = frozenset({FrameType.CLOSING, FrameType.RESET})
# The flow to the tunnel while something of it may wait to be written.
_WRITING: Final = frozenset({Flow.OPEN, Flow.BLOCKED, Flow.ENDING})


class TunnelPump:
    """Pumps one turn of a tunnel. Made by the initiator before OPEN, by the responder when OPEN has come.

    Attributes:
        sent, received: bytes from source to destination, and back.
        finished: the one future; done when nothing more will be moved.
    """

    __slots__ = (
        "_answer",
        "_answer_timer",
        "_application",
        "_deadline",
        "_guard",
        "_incoming",
        "_loop",
        "_on_answer",
        "_outgoing",
        "_refusal",
        "_refusal_detail",
        "_revoked",
        "_tunnel",
        "_watch",
        "finished",
    )

    def __init__(self, tunnel: Tunnel) -> None:
        self._loop = tunnel.loop
        self._tunnel = tunnel
        self._outgoing = ToTunnel(tunnel)
        self._incoming = FromTunnel(tunnel)
        self._answer = Answer.NONE
        self._answer_timer: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._refusal: Reason | None = None
        self._refusal_detail = ""
        self._revoked: Reason | None = None
        self._guard: Guard = UNGUARDED
        # The responder has them once it has dialled the application.
        self._application: socket.socket | None = None
        self._watch: Watch | None = None
        self._on_answer: Callback | None = None
        self.finished = Finished(self._loop)

    @property
    def sent(self) -> int:
        """Bytes from source to destination: the initiator's application is the source."""
        return self._count_taken() if self._is_initiator else self._count_passed()

    @property
    def received(self) -> int:
        """Bytes from destination to source."""
        return self._count_passed() if self._is_initiator else self._count_taken()

    def _count_taken(self) -> int:
        native = self._outgoing.native
        return self._outgoing.sent + (0 if native is None else native.count_lent()[0])

    def _count_passed(self) -> int:
        native = self._outgoing.native
        return self._incoming.received + (0 if native is None else native.count_lent()[1])

    # ---- beginnings -----------------------------------------------------------------------------------------------

    def open(
        self,
        application: socket.socket,
        opening: Opening,
        *,
        answer_s: float,
        early: bytes = b"",
        has_ended: bool = False,
    ) -> None:
        """Initiator: send OPEN, and what an earlier try has read already; then pump.

        Arguments:
            answer_s: without ACCEPT or REFUSE by then the turn is lost.
        """
        self._answer = change_answer(self._answer, Answer.AWAITED)
        if self._tunnel.turns.epoch and answer_s > ACKNOWLEDGED_S:
            # Reused: its peer may have gone since, without a word.
            self._answer_timer = self._loop.call_later(ACKNOWLEDGED_S, self._check_acknowledged, answer_s)
        else:
            self._answer_timer = self._loop.call_later(answer_s, self._expire_opening)
        self._take_application(application)
        self._incoming.start(application)
        self._tunnel.attach(self)
        frame = self._tunnel.begin_opening(opening)
        if early or has_ended:
            self._outgoing.open_with_early(frame, early, has_ended=has_ended)
        else:
            try:
                self._outgoing.open_with_first(frame, application)
            except OSError:
                self._reset_by_application()
                return
        self._watch_application()

    def accept(self, application: socket.socket) -> None:
        """Responder: send ACCEPT; then pump, beginning with what came early."""
        self._answer = change_answer(self._answer, Answer.ACCEPTED)
        self._take_application(application)
        if 0 < len(self._incoming.rest) < MAX_PAYLOAD_BYTES:
            # The initiator waits for the application's answer, not for ours, unless it has much more to send.
            self._tunnel.hold(FrameType.ACCEPT)
        else:
            self._tunnel.send(FrameType.ACCEPT)
        self._outgoing.start()
        self._watch_application()
        self._incoming.start(application)
        if self._incoming.rest:
            self._write_rest()

    def hold_answers(self, on_answer: Callback) -> None:
        """Responder, before ``accept``: call back once when the application has answered; nothing passes until then.

        What it answers waits for ``release_answers``.
        """
        self._on_answer = on_answer

    def release_answers(self) -> None:
        """Responder: let pass what the application answers."""
        if self._watch is None or self.finished.done():
            return
        self._take_back()  # A watch that is lent can't begin to read.
        self._watch.release_reading()

    def refuse(self, reason: Reason) -> None:
        """Responder: send REFUSE and discard what comes until the initiator's END."""
        self._answer = change_answer(self._answer, Answer.REFUSED)
        self._refusal = reason
        self._incoming.drop()
        self._tunnel.send(FrameType.REFUSE, encode_reason(reason))
        self._check_finished()

    @property
    def peer(self) -> VerifiedPeer:
        """Who the other end has proven to be by now: new keys come with its current certificate."""
        return self._tunnel.peer

    def guard_by(self, guard: Guard) -> None:
        """Ask this guard before bytes are forwarded, in either direction; again when what it goes by is another."""
        self._take_back()
        self._guard = guard

    def abort(self, ending: Ending, reason: Reason | None = None) -> None:
        """End both ends by reset: policy changed, or this sidecar stops; the peer is told the reason."""
        self._take_back()
        if not self.finished.done():
            self._incoming.rest.clear()
            self._tunnel.reset(reason)
            self._finish(ending)

    def _take_back(self) -> None:
        if self._outgoing.native is not None:
            self._outgoing.native.take_back()

    def _take_application(self, application: socket.socket) -> None:
        self._application = application
        self._watch = self._tunnel.poller.watch(application)
        if isinstance(self._tunnel, NativeTunnel):
            self._tunnel.pass_to(self)
        if self._on_answer is not None:
            self._watch.hold_reading(self._on_answer)

    # ---- application → tunnel -------------------------------------------------------------------------------------

    def _watch_application(self) -> None:
        if self._watch is not None and self._outgoing.flow is Flow.OPEN:
            self._watch.start_reading(self._read_application)

    def _read_application(self) -> None:
        application, watch, guard = self._application, self._watch, self._guard
        if application is None or watch is None:
            return
        if monotonic() > guard.fresh_until and not guard.look_again():
            return
        try:
            flow = self._outgoing.read(application, watch)
        except OSError:
            self._reset_by_application()
            return
        if flow is not _OPEN:
            watch.stop_reading()
            self._check_finished()
        elif self._outgoing.native is not None:
            self._outgoing.native.note_steady()

    def find_lendable(self) -> Lendable | None:
        """Return what a mover needs, while both directions are open and nothing waits."""
        application, watch = self._application, self._watch
        if application is None or watch is None or not watch.is_reading or not self._outgoing.is_lendable:
            return None
        if self._incoming.flow is not _OPEN or self.find_sink() < 0:
            return None
        try:
            return Lendable(application.fileno(), watch, self._guard.find_proof(), watch.is_held)
        except LookupError:
            return None

    def on_returned(self, taken: int, passed: int) -> None:
        """Count what a mover has moved."""
        self._outgoing.sent += taken
        self._incoming.received += passed

    def on_carried(self, carried: Carried) -> None:
        """Go on as the mover's last read ended."""
        try:
            flow = self._outgoing.note_carried(carried)
        except OSError:
            self._reset_by_application()
            return
        if flow is not _OPEN:
            if self._watch is not None:
                self._watch.stop_reading()
            self._check_finished()

    def on_drained(self) -> None:
        """The tunnel takes DATA again, and END has been written if it was sent."""
        if self._outgoing.flow is Flow.CUT:
            self._reset_now()
            return
        if self._outgoing.unblock():
            self._watch_application()
        self._outgoing.note_written()
        self._check_finished()

    # ---- tunnel → application -------------------------------------------------------------------------------------

    def on_data(self, payloads: list[memoryview]) -> None:
        """Write what came to the application, or keep it and stop reading the tunnel."""
        guard = self._guard
        if monotonic() > guard.fresh_until and not guard.look_again():
            return
        try:
            flow = self._incoming.take(payloads, self._application)
        except OSError:
            self._lose_sink()
            return
        if flow is Flow.BLOCKED:
            self._wait_for_application()

    def find_sink(self) -> int:
        """Return the application's descriptor while DATA may be written to it as it comes, on a fresh look; else -1."""
        application, guard = self._application, self._guard
        if application is None or self._incoming.flow is not _OPEN:
            return -1
        if monotonic() > guard.fresh_until and not guard.look_again():
            return -1
        return application.fileno()

    def on_passed(self, count: int, rest: bytes | None, code: int) -> None:
        """Note what the compiled loop wrote to the application."""
        self._incoming.received += count
        if rest is not None:
            self._incoming.keep_unwritten(rest)
        if code:
            self._lose_sink()
        elif rest is not None:
            self._wait_for_application()

    def _wait_for_application(self) -> None:
        self._tunnel.pause()
        if self._watch is not None:
            self._watch.start_writing(self._write_rest)

    def _write_rest(self) -> None:
        application, watch = self._application, self._watch
        if application is None or watch is None:
            return
        if monotonic() > self._guard.fresh_until and not self._guard.look_again():
            return
        try:
            is_written = self._incoming.write_rest(application)
        except OSError:
            self._lose_sink()
            return
        if not is_written:
            self._wait_for_application()
            return
        watch.stop_writing()
        self._check_finished()
        if not self.finished.done():
            self._tunnel.resume()

    def on_frame(self, frame: int, payload: bytes) -> None:
        """Follow the peer's control frames; ``turns`` has allowed them.

        Raises:
            ProtocolError: REFUSE without a reason code.
        """
        if frame == FrameType.ACCEPT:
            self._answer = change_answer(self._answer, Answer.ACCEPTED)
            self._stop_answer_timer()
            self._outgoing.forget_early()
            if self._outgoing.unblock():
                self._watch_application()
        elif frame == FrameType.END:
            self._on_end()
        elif frame == FrameType.REFUSE:
            refusal = decode_refusal(payload)
            self._refusal, self._refusal_detail = refusal.reason, refusal.detail or "refused by the other side"
            self._answer = change_answer(self._answer, Answer.REFUSED)
            self._incoming.drop()
            if self._watch is not None:
                self._watch.stop_reading()
            self._outgoing.drop()
            self._check_finished()
        elif frame in _LAST_WORDS and self._tunnel.turns.is_retry_allowed():
            self._tunnel.close()
            self._finish(Ending.PEER_LOST, is_retry_allowed=True)
        elif frame == FrameType.ABORT:
            # The story answers it when the application has been reset. What hasn't left yet, nobody will take.
            self._tunnel.note_unwritten()
            self._finish(reset_by(is_source=True))
        elif frame == FrameType.RESET:
            if payload:
                self._note_revoked(payload)
            self._tunnel.close()
            self._finish(reset_by(is_source=not self._is_initiator))
        elif frame != FrameType.CLOSING and frame != FrameType.WHY:
            raise ProtocolError(f"frame {frame} in the middle of a turn")

    def _note_revoked(self, payload: bytes) -> None:
        revoked = decode_refusal(payload)
        self._revoked = revoked.reason
        self._refusal_detail = revoked.detail or "closed by the other side"

    def _on_end(self) -> None:
        turns = self._tunnel.turns
        if self._incoming.end(self._application) is Flow.ENDING and turns.is_idle and turns.role is Role.RESPONDER:
            # Both directions have ended, but the application doesn't take the rest: let no next turn wait for it.
            self._tunnel.send(FrameType.CLOSING)
        self._check_finished()

    # ---- endings --------------------------------------------------------------------------------------------------

    @property
    def _is_initiator(self) -> bool:
        return self._tunnel.turns.role is Role.INITIATOR

    def on_lost(self, loss: Loss, detail: str) -> None:
        """The tunnel broke. In the middle of a turn nothing is certain: the application gets a reset."""
        if self.finished.done():
            return
        if self._tunnel.turns.is_idle and self._outgoing.flow is not Flow.ENDING:
            self._check_finished()
            return
        if loss is Loss.PROTOCOL:
            self._refusal = Reason.PROTOCOL_ERROR
        self._finish(Ending.RECORD_LIMIT if loss is Loss.RECORD_LIMIT else Ending.PEER_LOST, detail=detail)

    def _check_acknowledged(self, answer_s: float) -> None:
        """Give a reused tunnel up whose peer's kernel has acknowledged nothing of OPEN.

        It may have got it all the same, were only its acknowledgements lost: OPEN is repeated elsewhere only while no
        byte of the application was sent with it.
        """
        self._answer_timer = self._loop.call_later(answer_s - ACKNOWLEDGED_S, self._expire_opening)
        if count_undelivered(self._tunnel.connection):
            is_harmless = not self._outgoing.sent and not self._outgoing.has_ended
            self._tunnel.close(is_peer_gone=True)
            self._finish(
                Ending.PEER_LOST,
                is_retry_allowed=is_harmless,
                is_unanswered=True,
                detail="an idle tunnel's peer has gone",
            )

    def _expire_opening(self) -> None:
        self._answer_timer = None
        if self._answer is Answer.AWAITED:
            self._tunnel.reset()
            self._finish(Ending.PEER_LOST, detail="the peer didn't answer OPEN in time")

    def _stop_answer_timer(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None

    def _lose_sink(self) -> None:
        """The application takes no more. What it said before it broke is read to the end, within a deadline."""
        self._incoming.drop()
        self._outgoing.is_broken = True
        if self._watch is not None:
            self._watch.stop_writing()
        if self._outgoing.flow is Flow.OPEN or self._outgoing.flow is Flow.BLOCKED:
            self._set_deadline()
            self._tunnel.resume()
        else:
            self._reset_by_application()

    def _reset_by_application(self) -> None:
        """The application broke, and all that it said was read: the tunnel passes that on first."""
        self._incoming.drop()
        if self._watch is not None:
            self._watch.stop_reading()
        if self._tunnel.is_blocked and self._outgoing.flow in _WRITING:
            self._outgoing.cut()
            self._set_deadline()
        else:
            self._reset_now()

    def _set_deadline(self) -> None:
        if self._deadline is None:
            self._deadline = self._loop.call_later(DELIVERY_DEADLINE_S, self._reset_now)

    def _reset_now(self) -> None:
        self._take_back()
        if self.finished.done():
            return
        self._incoming.rest.clear()
        tunnel = self._tunnel
        if tunnel.turns.may_abort and tunnel.is_sound and tunnel.says_why:
            tunnel.send(FrameType.ABORT)  # The tunnel goes on: its next turn begins when this has been answered.
        elif not tunnel.turns.is_idle:
            tunnel.reset()
        self._finish(reset_by(is_source=self._is_initiator))

    def _check_finished(self) -> None:
        """Finish once both have sent END and nothing waits: for the application, or for the tunnel to be written."""
        if self.finished.done() or not self._tunnel.turns.is_idle or self._incoming.rest:
            return
        if self._refusal:
            self._finish(Ending.REFUSED)
        elif self._outgoing.flow is not Flow.ENDING:
            self._finish(Ending.FINISHED)

    def _finish(
        self, ending: Ending, *, is_retry_allowed: bool = False, is_unanswered: bool = False, detail: str = ""
    ) -> None:
        self._take_back()
        if self.finished.done():
            return
        self._stop_answer_timer()
        if self._deadline is not None:
            self._deadline.cancel()
        if self._watch is not None:
            self._watch.close()
        self._on_answer = None
        self._tunnel.detach()
        outgoing, incoming = self._outgoing, self._incoming
        if self._answer is Answer.REFUSED or is_retry_allowed:
            outgoing.forget_sent()
        elif ending is not Ending.FINISHED:
            outgoing.forget_unwritten()
        self.finished.set_result(
            PumpEnd(
                ending=ending,
                refusal=self._refusal,
                revoked=self._revoked,
                is_retry_allowed=is_retry_allowed,
                is_unanswered=is_unanswered,
                early=outgoing.early if is_retry_allowed or self._refusal else b"",
                has_ended=outgoing.has_ended,
                unsent=bytes(incoming.rest),
                detail=detail or self._refusal_detail,
            )
        )
        outgoing.stop()
        incoming.stop()
