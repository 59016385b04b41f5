"""Moves an application connection's bytes between it and a tunnel, and ends it as the other end ended.

Belongs here: byte moving with back-pressure, half-close, reset and byte counts; callbacks of the event loop only, with
one future for the end. Doesn't: plain connections on both sides (``plain_pump.py``), decisions and records.

What makes it fast: one read goes into 16 KiB slots that leave four bytes for the frame's header, so that a full slot is
one frame and one TLS record and nothing is copied; the slots are one for the whole loop. What is known to belong
together shares a record, as each costs both ends system calls and one of them a wake-up: OPEN and a request that is
there already, ACCEPT and the answer to an early request, the last DATA and END.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

import msgspec

from shared.model.errors import ProtocolError
from shared.model.policy.decision import Ending
from shared.model.policy.reasons import Reason
from sidecar.sockets.polling import Watch
from sidecar.tunnel.frames import (
    HEADER,
    HEADER_BYTES,
    MAX_EARLY_BYTES,
    MAX_FRAME_BYTES,
    MAX_PAYLOAD_BYTES,
    FrameType,
    Opening,
    decode_reason,
)
from sidecar.tunnel.tunnel import Loss, Tunnel
from sidecar.tunnel.turns import Role

_SLOTS: Final = 4
_slots = [memoryview(bytearray(MAX_FRAME_BYTES)) for _ in range(_SLOTS)]
_payloads = [slot[HEADER_BYTES:] for slot in _slots]
_DATA = int(FrameType.DATA)
_END = int(FrameType.END)
_pack_header = HEADER.pack_into


class PumpEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How pumping ended.

    Attributes:
        ending: for the record.
        refusal: the responder's reason, when it said REFUSE.
        is_retry_allowed: the OPEN was certainly not processed, and may be tried again.
        early: where nothing was processed (so, too, after REFUSE): DATA that the application sent so far, at most
            ``MAX_EARLY_BYTES``. With it and ``has_ended`` a next try begins.
        has_ended: the application has ended its direction.
        unsent: what came for the application and couldn't be written yet.
        detail: for people.
    """

    ending: Ending
    refusal: Reason | None = None
    is_retry_allowed: bool = False
    early: bytes = b""
    has_ended: bool = False
    unsent: bytes = b""
    detail: str = ""


class TunnelPump:
    """Pumps one turn of a tunnel. Made by the initiator before OPEN, by the responder when OPEN has come.

    Attributes:
        sent, received: bytes from the application to the tunnel, and back.
        finished: the one future; done when nothing more will be moved.
    """

    __slots__ = (
        "_answer_timer",
        "_application",
        "_early",
        "_has_cut_short",
        "_has_ended",
        "_has_peer_ended",
        "_is_accept_held",
        "_is_bulk",
        "_is_discarding",
        "_is_reading",
        "_is_writing",
        "_loop",
        "_refusal",
        "_tunnel",
        "_waiting",
        "_watch",
        "finished",
        "received",
        "sent",
    )

    def __init__(self, tunnel: Tunnel) -> None:
        self._loop = tunnel.loop
        self._tunnel = tunnel
        self._application: socket.socket | None = None
        self._watch: Watch | None = None
        self._answer_timer: asyncio.TimerHandle | None = None
        self._early: bytearray | None = None  # Only while the answer to OPEN is awaited.
        self._waiting = bytearray()  # For the application; bounded by one read of the tunnel or MAX_EARLY_BYTES.
        self._has_ended = False
        self._has_cut_short = False  # END was sent after REFUSE, though the application hasn't ended.
        self._has_peer_ended = False
        self._is_accept_held = False
        self._is_bulk = False
        self._is_discarding = False
        self._is_reading = False
        self._is_writing = False
        self._refusal: Reason | None = None
        self.sent = 0
        self.received = 0
        self.finished: asyncio.Future[PumpEnd] = self._loop.create_future()

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
        self._answer_timer = self._loop.call_later(answer_s, self._expire_opening)
        self._take_application(application)
        self._early = bytearray()
        self._tunnel.attach(self)
        frame = self._tunnel.begin_opening(opening)
        if not early and not has_ended:
            self._open_with_first(frame, application)
            return
        self._tunnel.write(frame)
        for start in range(0, len(early), MAX_PAYLOAD_BYTES):
            self._send_copied(early[start : start + MAX_PAYLOAD_BYTES])
        if has_ended:
            self._end_sending()
        else:
            self._resume_application()

    def _open_with_first(self, opening: bytes, application: socket.socket) -> None:
        """Send OPEN, in one record with what the application has sent already."""
        slot, start = _slots[0], len(opening) + HEADER_BYTES
        try:
            count = application.recv_into(slot[start:])
        except (BlockingIOError, InterruptedError):
            self._tunnel.write(opening)
            self._resume_application()
            return
        except OSError:
            self._tunnel.write(opening)
            self._reset_by_application()
            return
        if not count:
            self._tunnel.write(opening)
            self._end_sending()
            return
        slot[: len(opening)] = opening
        _pack_header(slot, len(opening), _DATA, self._tunnel.turns.send(FrameType.DATA, count), count)
        self.sent += count
        if self._early is not None:
            self._early += slot[start : start + count]
        if self._tunnel.write(slot[: start + count]):
            self._resume_application()

    def accept(self, application: socket.socket) -> None:
        """Responder: send ACCEPT; then pump, beginning with what came early."""
        self._take_application(application)
        if 0 < len(self._waiting) < MAX_PAYLOAD_BYTES:
            # The initiator waits for the application's answer, not for ours, unless it has much more to send.
            self._is_accept_held = True
            self._tunnel.hold(FrameType.ACCEPT)
        else:
            self._tunnel.send(FrameType.ACCEPT)
        self._resume_application()
        if self._waiting:
            self._write_waiting()
        elif self._has_peer_ended:
            self._end_application()

    def _take_application(self, application: socket.socket) -> None:
        self._application = application
        self._watch = self._tunnel.poller.watch(application)

    def refuse(self, reason: Reason) -> None:
        """Responder: send REFUSE and discard what comes until the initiator's END."""
        self._refusal = reason
        self._is_discarding = True
        self._waiting.clear()
        self._tunnel.send(FrameType.REFUSE, reason.value.encode())
        self._check_finished()

    def abort(self, ending: Ending) -> None:
        """End both ends by reset: policy changed, or this sidecar stops."""
        if not self.finished.done():
            self._waiting.clear()
            self._tunnel.reset()
            self._finish(ending)

    # ---- application → tunnel -------------------------------------------------------------------------------------

    def _on_application_readable(self) -> None:
        application = self._application
        if application is None:
            return
        try:
            if self._early is not None:
                count = application.recv_into(_payloads[0], min(MAX_PAYLOAD_BYTES, MAX_EARLY_BYTES - len(self._early)))
            elif self._is_bulk:
                count = application.recvmsg_into(_payloads)[0]
            else:
                count = application.recv_into(_payloads[0])
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._reset_by_application()
            return
        if not count:
            self._end_sending()
            return
        self.sent += count
        self._is_bulk = count >= MAX_PAYLOAD_BYTES
        if count <= MAX_PAYLOAD_BYTES - HEADER_BYTES and self._has_application_ended(application):
            self._send_last(count)
            return
        tunnel = self._tunnel
        send, is_written = tunnel.turns.send, True
        for slot in _slots:
            size = min(MAX_PAYLOAD_BYTES, count)
            _pack_header(slot, 0, _DATA, send(FrameType.DATA, size), size)
            is_written = tunnel.write(slot[: size + HEADER_BYTES]) and is_written
            if self._early is not None:
                self._early += slot[HEADER_BYTES : size + HEADER_BYTES]
                if len(self._early) >= MAX_EARLY_BYTES:
                    is_written = False
            count -= size
            if not count:
                break
        if not is_written:
            self._pause_application()

    def _has_application_ended(self, application: socket.socket) -> bool:
        """Whether nothing comes after what was read just now, as far as that can be told without a vain call."""
        if self._watch is None or not self._watch.is_ending:
            return False
        try:
            return not application.recv(1, socket.MSG_PEEK)
        except OSError:
            return False  # It broke: the next read tells, after what was read now has been sent.

    def _send_last(self, size: int) -> None:
        """Send what lies in the first slot, and END with it."""
        self._pause_application()
        self._has_ended = True
        slot, turns, end = _slots[0], self._tunnel.turns, HEADER_BYTES + size
        _pack_header(slot, 0, _DATA, turns.send(FrameType.DATA, size), size)
        if self._early is not None:
            self._early += slot[HEADER_BYTES:end]
        _pack_header(slot, end, _END, turns.send(FrameType.END), 0)
        self._tunnel.write(slot[: end + HEADER_BYTES])
        self._check_finished()

    def _send_copied(self, payload: bytes) -> None:
        self.sent += len(payload)
        epoch = self._tunnel.turns.send(FrameType.DATA, len(payload))
        self._tunnel.write(HEADER.pack(_DATA, epoch, len(payload)) + payload)
        if self._early is not None:
            self._early += payload

    def _end_sending(self) -> None:
        self._pause_application()
        self._has_ended = True
        self._tunnel.send(FrameType.END)
        self._check_finished()

    def on_drained(self) -> None:
        """The tunnel takes DATA again."""
        self._resume_application()

    def _resume_application(self) -> None:
        watch = self._watch
        if watch is None or self._is_reading or self._has_ended or self._is_discarding or self.finished.done():
            return
        if self._early is not None and len(self._early) >= MAX_EARLY_BYTES:
            return
        self._is_reading = True
        watch.start_reading(self._on_application_readable)

    def _pause_application(self) -> None:
        if self._is_reading and self._watch is not None:
            self._is_reading = False
            self._watch.stop_reading()

    # ---- tunnel → application -------------------------------------------------------------------------------------

    def on_data(self, payloads: list[memoryview]) -> None:
        """Write what came to the application, or keep it and stop reading the tunnel."""
        if self._is_discarding:
            return
        if self._is_accept_held:
            self._is_accept_held = False
            self._tunnel.release()  # It goes on sending, and may do so up to a limit only until it sees ACCEPT.
        application = self._application
        if application is None or self._waiting:
            for payload in payloads:
                self.received += len(payload)
                self._waiting += payload
            return
        try:
            if len(payloads) == 1:
                total = len(payloads[0])
                count = application.send(payloads[0])
            else:
                total = sum(map(len, payloads))
                count = application.sendmsg(payloads)
        except (BlockingIOError, InterruptedError):
            total, count = sum(map(len, payloads)), 0
        except OSError:
            self._reset_by_application()
            return
        self.received += total
        if count < total:
            self._waiting += b"".join(payloads)[count:]
            self._wait_for_application()

    def _wait_for_application(self) -> None:
        self._tunnel.pause()
        if not self._is_writing and self._watch is not None:
            self._is_writing = True
            self._watch.start_writing(self._write_waiting)

    def _write_waiting(self) -> None:
        application = self._application
        if application is None:
            return
        try:
            count = application.send(self._waiting)
        except (BlockingIOError, InterruptedError):
            count = 0
        except OSError:
            self._reset_by_application()
            return
        del self._waiting[:count]
        if self._waiting:
            self._wait_for_application()
            return
        self._stop_writing()
        if self._has_peer_ended:
            self._end_application()
        if not self.finished.done():
            self._tunnel.resume()

    def _stop_writing(self) -> None:
        if self._is_writing and self._watch is not None:
            self._is_writing = False
            self._watch.stop_writing()

    def _end_application(self) -> None:
        if self._application is not None:
            try:
                self._application.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # It has gone; reading it tells how.
        self._check_finished()

    def on_frame(self, frame: int, payload: bytes) -> None:
        """Follow the peer's control frames; ``turns`` has allowed them.

        Raises:
            ProtocolError: REFUSE without a reason of ours.
        """
        if frame == FrameType.ACCEPT:
            self._early = None
            self._stop_answer_timer()
            self._resume_application()
        elif frame == FrameType.END:
            self._has_peer_ended = True
            if self._is_discarding:
                self._check_finished()
            elif not self._waiting and self._application is not None:
                self._end_application()
            elif self._tunnel.turns.is_idle and self._tunnel.turns.role is Role.RESPONDER:
                # Both directions have ended, but the application doesn't take the rest: let no next turn wait for it.
                self._tunnel.send(FrameType.CLOSING)
        elif frame == FrameType.REFUSE:
            self._refusal = decode_reason(payload)
            self._is_discarding = True
            self._pause_application()
            if not self._has_ended:
                self._has_ended = self._has_cut_short = True
                self._tunnel.send(FrameType.END)
            self._check_finished()
        elif frame == FrameType.RESET:
            self._tunnel.close()
            is_initiator = self._tunnel.turns.role is Role.INITIATOR
            self._finish(Ending.RESET_BY_DESTINATION if is_initiator else Ending.RESET_BY_SOURCE)
        elif frame == FrameType.CLOSING:
            if self._tunnel.turns.is_retry_allowed():
                self._tunnel.close()
                self._finish(Ending.PEER_LOST, is_retry_allowed=True)
        else:
            raise ProtocolError(f"frame {frame} in the middle of a turn")

    # ---- endings --------------------------------------------------------------------------------------------------

    def on_lost(self, loss: Loss, detail: str) -> None:
        """The tunnel broke. In the middle of a turn nothing is certain: the application gets a reset."""
        if self.finished.done():
            return
        if self._tunnel.turns.is_idle:
            self._check_finished()
            return
        if loss is Loss.PROTOCOL:
            self._refusal = Reason.PROTOCOL_ERROR
        self._finish(Ending.RECORD_LIMIT if loss is Loss.RECORD_LIMIT else Ending.PEER_LOST, detail=detail)

    def _expire_opening(self) -> None:
        self._answer_timer = None
        if self._early is not None and self._refusal is None:
            self._tunnel.reset()
            self._finish(Ending.PEER_LOST, detail="the peer didn't answer OPEN in time")

    def _stop_answer_timer(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None

    def _reset_by_application(self) -> None:
        self._waiting.clear()
        if not self._tunnel.turns.is_idle:
            self._tunnel.reset()
        is_initiator = self._tunnel.turns.role is Role.INITIATOR
        self._finish(Ending.RESET_BY_SOURCE if is_initiator else Ending.RESET_BY_DESTINATION)

    def _check_finished(self) -> None:
        if self._tunnel.turns.is_idle and not self._waiting and not self.finished.done():
            self._finish(Ending.REFUSED if self._refusal else Ending.FINISHED)

    def _finish(self, ending: Ending, *, is_retry_allowed: bool = False, detail: str = "") -> None:
        if self.finished.done():
            return
        self._stop_answer_timer()
        self._is_reading = self._is_writing = False
        if self._watch is not None:
            self._watch.close()
        self._tunnel.detach()
        self.finished.set_result(
            PumpEnd(
                ending=ending,
                refusal=self._refusal,
                is_retry_allowed=is_retry_allowed,
                early=bytes(self._early or b"") if is_retry_allowed or self._refusal else b"",
                has_ended=self._has_ended and not self._has_cut_short,
                unsent=bytes(self._waiting),
                detail=detail,
            )
        )
