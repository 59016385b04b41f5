"""One mutual TLS connection between two sidecars, read and written as frames.

Belongs here: the I/O shell around ``turns.py``, ``frames.py`` and ``frame_reader.py``: reading and writing records,
what is pinned because it couldn't be written, losing and closing. Doesn't: what the frames are for
(``sidecar/pump/tunnel_pump.py`` and the two stories), which tunnel is reused (``pool.py``).

The current user of the tunnel is its ``user``; it is called back synchronously from the event loop. Longer than most:
reading, writing, renewing keys and closing share the state of one connection.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from OpenSSL import SSL

from shared.model.errors import ProtocolError
from shared.model.policy.reasons import Reason
from shared.model.trust.certificate import VerifiedPeer
from sidecar.sockets.ending import DELIVERY_DEADLINE_S, close_after_delivery, count_undelivered, count_untaken, reset
from sidecar.sockets.polling import poller_of
from sidecar.tls.key_limit import MAX_KEY_BYTES, RECORD_OVERHEAD_BYTES, RENEWED_AT_BYTES
from sidecar.tls.records import Buffer, Records
from sidecar.tls.role import Role
from sidecar.tunnel.frame_reader import FrameReader
from sidecar.tunnel.frames import (
    HEADER,
    MAX_FRAME_BYTES,
    FrameType,
    Opening,
    decode_why,
    encode_code,
    encode_frame,
    encode_opening,
)
from sidecar.tunnel.trace import FrameTrace
from sidecar.tunnel.turns import Turns
from sidecar.tunnel.user import Loss as Loss
from sidecar.tunnel.user import Rekey, Renewal, TunnelUser
from sidecar.tunnel.user import Renewed as Renewed

if TYPE_CHECKING:
    from sidecar.credential.credential import Credential

# Four full records: enough that one call hands 64 KiB to the application.
_READ_BYTES: Final = 4 * MAX_FRAME_BYTES
# Nothing waits for a held frame: it only must not stay for ever.
_HOLD_S: Final = 0.02
# For a user that takes no more, while the peer's REKEY is awaited: above what both kernels hold of one connection.
_MAX_READ_AHEAD_BYTES: Final = 16 * 1024 * 1024
# One buffer for the loop: every callback uses it up before it returns, or copies what it couldn't pass on.
_buffer = Buffer(_READ_BYTES + 2 * MAX_FRAME_BYTES)
_bytes = _buffer.view
_DATA = int(FrameType.DATA)
_REKEY = int(FrameType.REKEY)
_WHY = int(FrameType.WHY)
_RESET = int(FrameType.RESET)
# A peer that asks for new keys sooner is after this end's processor.
_LEAST_BETWEEN_KEYS: Final = 128 * 1024


class Tunnel:
    """One end of a tunnel, after its handshake.

    Attributes:
        turns: who may send what now.
        peer: what the other sidecar's certificate proves.
        credential: this end's.
        id: the same on both ends, from the TLS exporter.
        opened_at: in the loop's time.
        poller: tells when the application's socket is ready, as it does for the tunnel's own.
        sent, received: bytes that used up this direction's key, records' overhead included.
        unwritten: at its end, or ``note_unwritten``: bytes that the peer's kernel hadn't taken, records' overhead too.
        why: initiator: why the responder's certificate shows no program, once it has said so; for the record.
    """

    __slots__ = (
        "_asked_at", "_has_renewed", "_held", "_hold_timer", "_is_closed", "_is_parting", "_is_reading",
        "_later", "_on_closed", "_pinned", "_reader", "_rekey", "_renew_at", "_renewal", "_renewing", "_tls",
        "_trace", "_wants_reading", "_watch", "connection", "credential", "id", "loop", "opened_at", "peer",
        "poller", "received", "sent", "turns", "unwritten", "user", "why",
    )  # fmt: skip

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        connection: socket.socket,
        tls: SSL.Connection,
        role: Role,
        peer: VerifiedPeer,
        credential: Credential,
        rekey: Rekey | None = None,
        trace: FrameTrace | None = None,
        key_bytes: int = RENEWED_AT_BYTES,
    ) -> None:
        self.loop = loop
        self.connection = connection
        self.turns = Turns(role)
        self.peer = peer
        self.credential = credential
        self.id = tls.export_keying_material(b"EXPORTER-touchmark-tunnel-id", 8).hex()
        self.opened_at = loop.time()
        self.user: TunnelUser | None = None
        self._trace = trace
        self._tls = self._records_of(tls)
        self._reader = FrameReader()
        self.poller = poller_of(loop)
        self._watch = self.poller.watch(connection)
        self._held = b""
        self._hold_timer: asyncio.TimerHandle | None = None
        self._pinned: list[bytes] = []
        self.sent = self.received = self.unwritten = 0
        self.why: Reason | None = None
        self._renew_at = key_bytes
        self._rekey = rekey
        self._renewal = Renewal.NONE
        self._asked_at = 0
        self._renewing: asyncio.Task[None] | None = None
        self._has_renewed = False
        self._later: list[bytes] = []  # For the new keys.
        self._is_reading = False
        self._wants_reading = False
        self._is_closed = False
        self._is_parting = False  # What is left to be written is its last word.
        self._on_closed: Callable[[Tunnel], None] | None = None

    @property
    def is_closed(self) -> bool:
        """Whether the tunnel is gone."""
        return self._is_closed

    @property
    def is_reusable(self) -> bool:
        """Whether another turn may begin: idle, and ``is_sound``."""
        return self.turns.is_idle and self.is_sound

    @property
    def is_sound(self) -> bool:
        """Whether the turn may be followed by another: alive, nothing left to write, no CLOSING, keys not used up."""
        return (
            not (self._is_closed or self._has_renewed or self._pinned or self._held or self.turns.is_closing)
            and max(self.sent, self.received) < self._renew_at
        )

    @property
    def says_why(self) -> bool:
        """Whether the peer knows WHY, ABORT, and RESET with a reason: what ``touchmark/2`` has beyond ``/1``."""
        return self._rekey is not None

    @property
    def is_blocked(self) -> bool:
        """Whether something couldn't be written yet; ``on_drained`` tells the user when it has been."""
        return bool(self._pinned) or self._renewal is not Renewal.NONE

    @property
    def is_holding(self) -> bool:
        """Whether a frame waits for the next one, to share its record."""
        return bool(self._held)

    @property
    def not_after(self) -> float:
        """The earlier end of both certificates, in seconds since the epoch."""
        return min(self.peer.not_after, self.credential.not_after)

    def attach(self, user: TunnelUser) -> None:
        """Make ``user`` the one who is called back, and go on reading."""
        self.user = user
        if self._reader.rest:
            # Called soon rather than now, so that the user is complete before its first callback.
            self.loop.call_soon(self._process_rest)
        self.resume()

    def detach(self) -> None:
        """The tunnel has no user; what arrives waits."""
        self.user = None

    def pause(self) -> None:
        """Stop reading: the user can't take more. TCP's flow control tells the peer."""
        self._wants_reading = False
        # The peer's REKEY is behind what waits in the kernel, and it lets this end write again: read on until it comes,
        # but not for as long as a peer goes on that doesn't say it.
        is_awaited = self._renewal is Renewal.ASKED and self.received - self._asked_at < _MAX_READ_AHEAD_BYTES
        if self._is_reading and not is_awaited:
            self._is_reading = False
            self._watch.stop_reading()

    def resume(self) -> None:
        """Read again."""
        self._wants_reading = True
        self._read_on()

    def _read_on(self) -> None:
        if not self._is_reading and not self._is_closed and self._renewal is not Renewal.HANDSHAKE:
            self._is_reading = True
            self._watch.start_reading(self._on_readable)

    # ---- writing --------------------------------------------------------------------------------------------------

    def begin_opening(self, opening: Opening) -> bytes:
        """Begin a turn; returns the frame OPEN for the caller to write, with the first DATA behind it if there is any.

        Raises:
            RuntimeError: the tunnel isn't idle.
        """
        payload = encode_opening(opening)
        return encode_frame(FrameType.OPEN, self.turns.send(FrameType.OPEN, len(payload)), payload)

    def send(self, frame: FrameType, payload: bytes = b"") -> bool:
        """Send a control frame. When a record is pending, it waits behind it.

        Returns:
            False when it couldn't be written at once, as ``write``.

        Raises:
            RuntimeError: this end may not send it now.
        """
        epoch = self.turns.send(frame, len(payload))
        return self.write(encode_frame(frame, epoch, payload))

    def hold(self, frame: FrameType) -> None:
        """Send a control frame without a payload in front of whatever is sent next, at the latest in a moment.

        Raises:
            RuntimeError: this end may not send it now.
        """
        self._held += encode_frame(frame, self.turns.send(frame))
        if self._hold_timer is None:
            self._hold_timer = self.loop.call_later(_HOLD_S, self.release)

    def release(self) -> None:
        """Send now what is held, if anything is."""
        if self._held and not self._is_closed:
            self._write_record(self._take_held())

    def _take_held(self) -> bytes:
        held, self._held = self._held, b""
        if self._hold_timer is not None:
            self._hold_timer.cancel()
            self._hold_timer = None
        return held

    def say_why(self, reason: Reason) -> None:
        """Responder, before the first turn: say why its certificate shows no program. Nothing for ``touchmark/1``."""
        if self.says_why:
            self.write(encode_frame(FrameType.WHY, self.turns.epoch, encode_code(reason)))

    def say_unprocessed(self) -> None:
        """Responder: say CLOSING for an OPEN that has come and was not processed, and end the tunnel.

        Raises:
            RuntimeError: the OPEN was answered already.
        """
        epoch = self.turns.disown()
        self.user = None
        self.write(HEADER.pack(FrameType.CLOSING, epoch, 0))
        if self.is_blocked:
            self._is_parting = True
            self.loop.call_later(DELIVERY_DEADLINE_S, self._part)
        else:
            self.close()

    def _part(self) -> None:
        self._is_parting = False
        self.close()

    def write(self, record: bytes | memoryview) -> bool:
        """Write whole frames, which ``turns`` has allowed, as one TLS record: at most ``MAX_FRAME_BYTES``.

        Returns:
            False when it couldn't be written at once. Then it is pinned (OpenSSL has encrypted it already, and would
            send the old bytes for a new buffer); write no DATA before ``on_drained``.
        """
        if self._is_closed:
            return True
        if self._held:
            held = self._take_held()
            if len(held) + len(record) > MAX_FRAME_BYTES:
                self._write_record(held)
            else:
                record = b"".join((held, record))
        return self._write_record(record)

    def _write_record(self, record: bytes | memoryview) -> bool:
        if self._renewal is not Renewal.NONE:
            self._later.append(bytes(record))
            return False
        return self._write_now(record)

    def _write_now(self, record: bytes | memoryview) -> bool:
        if self._pinned:
            self._pinned.append(bytes(record))
            return False
        while True:
            try:
                count = self._tls.send(record)
            except SSL.WantWriteError:
                self._pinned.append(bytes(record))
                self._watch.start_writing(self._on_writable)
                return False
            except SSL.Error as error:
                self._judge_later(str(error))
                return False
            self.sent += count + RECORD_OVERHEAD_BYTES
            if count == len(record):
                break
            record = record[count:]  # The peer has asked for shorter records.
        if self.sent > self._renew_at:
            self._note_use()
        return True

    def _on_writable(self) -> None:
        while self._pinned:
            record = self._pinned[0]
            try:
                count = self._tls.send(record)
            except SSL.WantWriteError:
                return
            except SSL.Error as error:
                self._pinned.clear()
                self._watch.stop_writing()
                self._judge_later(str(error))
                return
            self.sent += count + RECORD_OVERHEAD_BYTES
            if count == len(record):
                del self._pinned[0]
            else:
                self._pinned[0] = record[count:]
        self._watch.stop_writing()
        if self._is_parting and self._renewal is Renewal.NONE:
            self._part()
        elif self._renewal is Renewal.ANSWERED:
            # What was written in front of REKEY may have been its user's last: the peer then closes instead.
            if self.user is not None and not self._later:
                self.user.on_drained()
            if not self._is_closed:
                self._begin_handshake()
        elif self._renewal is Renewal.NONE and self.user is not None:
            self.user.on_drained()

    def _judge_later(self, detail: str) -> None:
        # A send to a peer that has closed fails though its last frames are still readable: read before judging. OpenSSL
        # does so up to 3.x alone; since 4.0 it is the peer's late closing that keeps them (``close_after_delivery``).
        if self._is_reading:
            self.loop.call_soon(self._judge, detail)
        else:
            self.loop.call_soon(self.lose, Loss.BROKEN, detail)

    def _judge(self, detail: str) -> None:
        for _ in range(16):  # Bounded: more than a socket buffer of full records would be no last message.
            if self._is_closed or not self._is_reading:
                break
            self._on_readable()
        self.lose(Loss.BROKEN, detail)

    # ---- reading --------------------------------------------------------------------------------------------------

    def _on_readable(self) -> None:
        if self.user is None:
            self.pause()
            return
        reader = self._reader
        filled = reader.restore(_bytes)
        failure: str | None = None
        receive = self._tls.receive
        try:
            # A short record is the last one for now; with room for whole records only, OpenSSL keeps none back.
            while filled < _READ_BYTES:
                count = receive(_buffer, filled, MAX_FRAME_BYTES)
                filled += count
                self.received += count + RECORD_OVERHEAD_BYTES
                if count < MAX_FRAME_BYTES:
                    break
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            failure = "the peer closed the tunnel"
        except SSL.Error as error:
            failure = f"the tunnel broke: {error}"
        if filled:
            self._process(_bytes[:filled])
        if failure is not None:
            self.lose(Loss.BROKEN, failure)

    def _process_rest(self) -> None:
        """Call the new user back with what came while there was none."""
        if self._reader.rest and not self._is_closed:
            self._process(_bytes[: self._reader.restore(_bytes)])

    def _process(self, data: memoryview) -> None:
        reader, turns = self._reader, self.turns
        reader.feed(data)
        payloads: list[memoryview] = []
        try:
            while (user := self.user) is not None and (frame := reader.next_frame()):
                payload = reader.payload
                if turns.is_closing and turns.role is Role.RESPONDER and turns.is_idle:
                    continue  # After CLOSING nothing is processed, as it said.
                if frame == _REKEY:
                    if payloads:
                        user.on_data(payloads)
                        payloads = []
                    if self._is_closed:
                        return
                    self._on_rekey()
                    continue
                if frame == _WHY:
                    self._on_why(bytes(payload))
                    user.on_frame(frame, b"")
                    continue
                if frame == _RESET and turns.is_over(reader.epoch):
                    self.lose(Loss.BROKEN, "the peer reset a turn that had ended here")
                    return
                turns.receive(frame, reader.epoch, len(payload))
                if frame == _DATA:
                    payloads.append(payload)
                    continue
                if payloads:
                    user.on_data(payloads)
                    payloads = []
                if self.user is user:
                    user.on_frame(frame, bytes(payload))
                if self._is_closed:
                    return
            if payloads and self.user is not None:
                self.user.on_data(payloads)
        except ProtocolError as error:
            self.lose(Loss.PROTOCOL, error.message)
            return
        except BaseException as error:  # A fault of ours: what its user has taken isn't known, so nothing may follow.
            self.lose(Loss.BROKEN, f"{type(error).__name__}: {error}"[:300])
            raise
        if self._is_closed:
            return
        reader.keep_rest()
        if self.received > self._renew_at:
            self._note_use()

    def _on_why(self, payload: bytes) -> None:
        """The responder says why its certificate shows no program.

        Raises:
            ProtocolError: it shows one, has said so before, or is the initiator.
        """
        if self.turns.role is not Role.INITIATOR or self.why is not None or self.peer.identity.program is not None:
            raise ProtocolError("WHY may not come now")
        self.why = decode_why(payload) or Reason.LISTENER_NOT_APPROVED

    # ---- new keys -------------------------------------------------------------------------------------------------

    def _note_use(self) -> None:
        """Much of a key's limit is used up: the initiator asks for new keys in the middle of a turn.

        Between turns a tunnel isn't used again instead, and a peer that can't is used to the limit.
        """
        if max(self.sent, self.received) > MAX_KEY_BYTES:
            self.loop.call_soon(self.lose, Loss.RECORD_LIMIT, "")
        elif (
            self._rekey is not None
            and self._renewal is Renewal.NONE
            and self.turns.role is Role.INITIATOR
            and not self.turns.is_idle
            and not self._is_closed
        ):
            self._renewal, self._asked_at = Renewal.ASKED, self.received
            self._write_now(encode_frame(FrameType.REKEY, self.turns.epoch))
            self._read_on()

    def _on_rekey(self) -> None:
        """The peer has sent its last frame with the old keys.

        Raises:
            ProtocolError: it may not now.
        """
        is_initiator = self.turns.role is Role.INITIATOR
        expected = Renewal.ASKED if is_initiator else Renewal.NONE
        if self._rekey is None or self._renewal is not expected or not self._reader.is_at_end:
            raise ProtocolError("REKEY may not come now")
        if not is_initiator and max(self.sent, self.received) < min(self._renew_at, _LEAST_BETWEEN_KEYS):
            raise ProtocolError("REKEY came too soon")  # Handshakes cost more than bytes.
        if is_initiator:
            self._begin_handshake()
            return
        self._renewal = Renewal.ANSWERED
        self._stop_reading()
        if self._write_now(encode_frame(FrameType.REKEY, self._reader.epoch)):
            self._begin_handshake()

    def _stop_reading(self) -> None:
        self._is_reading = False
        self._watch.stop_reading()

    def _begin_handshake(self) -> None:
        self._renewal = Renewal.HANDSHAKE
        self._stop_reading()
        self._watch.close()
        self._renewing = self.loop.create_task(self._renew(), name="tunnel-rekey")

    async def _renew(self) -> None:
        assert self._rekey is not None
        try:
            renewed = await self._rekey()
        except Exception as error:  # Whatever it is: nothing else ends the wait for new keys.
            self.lose(Loss.BROKEN, f"no new keys: {error}")
            return
        before, now = self.peer.identity, renewed.peer.identity
        if (before.workload, before.program) != (now.workload, now.program):
            self.lose(Loss.BROKEN, f"{now} answered where {before} did")
            return
        self._tls, self.peer, self.credential = self._records_of(renewed.tls), renewed.peer, renewed.credential
        self.sent = self.received = 0
        self._has_renewed = True
        self._watch = self.poller.watch(self.connection)
        self._renewal = Renewal.NONE
        if self._wants_reading:
            self._read_on()
        later, self._later = self._later, []
        for record in later:
            self._write_record(record)
        if self._is_parting and not self.is_blocked:
            self._part()
        elif not self.is_blocked and self.user is not None:
            self.user.on_drained()

    def _records_of(self, tls: SSL.Connection) -> Records:
        return Records(tls) if self._trace is None else self._trace.records_of(tls, self.id)

    def note_unwritten(self) -> None:
        """Count what the peer's kernel hasn't taken yet."""
        self.unwritten = sum(map(len, self._pinned)) + sum(map(len, self._later)) + count_untaken(self.connection)

    # ---- ending ---------------------------------------------------------------------------------------------------

    def call_when_closed(self, callback: Callable[[Tunnel], None]) -> None:
        """Have ``callback`` called once with this tunnel, when it is gone for whatever reason."""
        self._on_closed = callback

    def lose(self, loss: Loss, detail: str) -> None:
        """Close the tunnel and tell its user."""
        if self._is_closed:
            return
        user, self.user = self.user, None
        self._part()
        if user is not None:
            user.on_lost(loss, detail)

    def reset(self, reason: Reason | None = None) -> None:
        """End the tunnel in the middle of a turn: RESET where it can still be written, then the connection's end.

        Arguments:
            reason: why this side may not go on, for the other one's record.
        """
        if self._is_closed:
            return
        if not self.is_blocked and not self.turns.is_idle:
            try:
                payload = encode_code(reason) if reason is not None and self.says_why else b""
                frame = encode_frame(FrameType.RESET, self.turns.send(FrameType.RESET), payload)
                self._tls.send(self._take_held() + frame)
            except (SSL.Error, RuntimeError):
                pass  # The peer sees the connection's end, which is a reset to it as well.
        self.close()

    def close(self, *, is_peer_gone: bool = False) -> None:
        """End the tunnel now. What the kernel holds is still delivered, within a deadline, as is a last word.

        Arguments:
            is_peer_gone: nothing is delivered any more, should the peer come back.
        """
        if self._is_closed or self._is_parting:
            return
        self._is_closed = True
        self._is_reading = False
        self.note_unwritten()
        self._watch.close()
        self._take_held()
        self._pinned.clear()
        self._later.clear()
        self.user = None
        self._reader.clear()
        if self._renewing is not None and not self._renewing.done():
            # A handshake's step may be under way in a thread: closed now, its descriptor could be another's by then.
            self._renewing.add_done_callback(lambda _: self._close_connection(is_peer_gone=is_peer_gone))
            self._renewing.cancel()
        else:
            self._close_connection(is_peer_gone=is_peer_gone)
        if self._on_closed is not None:
            self._on_closed(self)
            self._on_closed = None

    def _close_connection(self, *, is_peer_gone: bool) -> None:
        if is_peer_gone:
            reset(self.connection)
        elif self.turns.is_idle and not self.turns.is_closing and not count_undelivered(self.connection):
            self.connection.close()  # Nothing is under way, so nothing can be lost.
        else:
            close_after_delivery(self.loop, self.connection)
