"""One direction of a turn: from the application to the tunnel.

Belongs here: reading the application, framing and writing to the tunnel, the copy for a retry. Doesn't: the other
direction (``from_tunnel.py``), control frames but END, and when the turn ends (``tunnel_pump.py``).

What makes it fast: one read goes into 16 KiB slots that leave four bytes for the frame's header, so that a full slot is
one frame and one TLS record and nothing is copied; the slots are one for the whole loop. What is known to belong
together shares a record, as each costs both ends system calls and one of them a wake-up: OPEN and a request that is
there already, the last DATA and END.
"""

from __future__ import annotations

import socket
from typing import Final

from sidecar.pump.states import Flow, change_flow
from sidecar.sockets.polling import Watch
from sidecar.tunnel.frames import HEADER, HEADER_BYTES, MAX_EARLY_BYTES, MAX_FRAME_BYTES, MAX_PAYLOAD_BYTES, FrameType
from sidecar.tunnel.native_tunnel import Carried, NativeTunnel
from sidecar.tunnel.tunnel import Tunnel

_SLOTS: Final = 4
_slots = [memoryview(bytearray(MAX_FRAME_BYTES)) for _ in range(_SLOTS)]
_payloads = [slot[HEADER_BYTES:] for slot in _slots]
_DATA = int(FrameType.DATA)
_END = int(FrameType.END)
# Looked up for every read: a global is found sooner than an enumeration's member.
_CARRIED_ALL: Final = Carried.OPEN
_OPEN: Final = Flow.OPEN
_pack_header = HEADER.pack_into


class ToTunnel:
    """Reads the application and writes to the tunnel. The pump watches the application while ``flow`` is OPEN.

    Attributes:
        flow: what this direction is doing.
        sent: bytes from the application that were handed to the tunnel.
        native: the tunnel, if the compiled loop moves its DATA.
        is_broken: writing to the application has failed. That error is told once: an end that is read is none.
        early: what the initiator has sent before it knew the answer to OPEN; at most ``MAX_EARLY_BYTES``.
    """

    __slots__ = ("_is_bulk", "_is_copying", "_tunnel", "early", "flow", "is_broken", "native", "sent")

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        self.native = tunnel if isinstance(tunnel, NativeTunnel) else None
        self._is_bulk = False
        self._is_copying = False
        self.is_broken = False
        self.flow = Flow.NEW
        self.sent = 0
        self.early = b""

    # ---- beginnings -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Responder: the application can be read."""
        self.flow = change_flow(self.flow, Flow.OPEN)

    def open_with_first(self, opening: bytes, application: socket.socket) -> None:
        """Initiator: write OPEN, in one record with what the application has sent already.

        Raises:
            OSError: the application's connection broke; OPEN was written.
        """
        self._is_copying = True
        self.flow = change_flow(self.flow, Flow.OPEN)
        tunnel, slot, start = self._tunnel, _slots[0], len(opening) + HEADER_BYTES
        try:
            count = application.recv_into(slot[start:])
        except (BlockingIOError, InterruptedError):
            if not tunnel.write(opening):
                self.flow = change_flow(self.flow, Flow.BLOCKED)
            return
        except OSError:
            tunnel.write(opening)
            raise
        if not count:
            tunnel.write(opening)
            self._end()
            return
        slot[: len(opening)] = opening
        _pack_header(slot, len(opening), _DATA, tunnel.turns.send(FrameType.DATA, count), count)
        self.sent += count
        self.early += slot[start : start + count]
        if not tunnel.write(slot[: start + count]):
            self.flow = change_flow(self.flow, Flow.BLOCKED)

    def open_with_early(self, opening: bytes, early: bytes, *, has_ended: bool) -> None:
        """Initiator: write OPEN, and what an earlier try has read already."""
        self._is_copying = True
        self.flow = change_flow(self.flow, Flow.OPEN)
        tunnel = self._tunnel
        is_written = tunnel.write(opening)
        for start in range(0, len(early), MAX_PAYLOAD_BYTES):
            payload = early[start : start + MAX_PAYLOAD_BYTES]
            epoch = tunnel.turns.send(FrameType.DATA, len(payload))
            is_written = tunnel.write(HEADER.pack(_DATA, epoch, len(payload)) + payload)
        self.sent += len(early)
        self.early += early
        if has_ended:
            self._end()
        elif not is_written or len(self.early) >= MAX_EARLY_BYTES:
            self.flow = change_flow(self.flow, Flow.BLOCKED)

    def forget_early(self) -> None:
        """Initiator: ACCEPT has come, so that nothing will be tried again."""
        self._is_copying = False
        self.early = b""

    # ---- moving ---------------------------------------------------------------------------------------------------

    def read(self, application: socket.socket, watch: Watch) -> Flow:
        """Read the application once, or a budget by the compiled loop, and write what it said; return the flow then.

        Raises:
            OSError: the application's connection broke.
        """
        # A short last word shares a record with END, and until the answer comes a copy is kept: neither is the loop's.
        native = self.native
        if native is not None and not self._is_copying and (self._is_bulk or not watch.is_ending) and native.can_carry:
            return self._carry(native, application)
        try:
            if self._is_copying:
                count = application.recv_into(_payloads[0], min(MAX_PAYLOAD_BYTES, MAX_EARLY_BYTES - len(self.early)))
            elif self._is_bulk:
                count = application.recvmsg_into(_payloads)[0]
            else:
                count = application.recv_into(_payloads[0])
        except (BlockingIOError, InterruptedError):
            return self.flow
        if not count:
            if self.is_broken:
                raise ConnectionResetError
            return self._end()
        self.sent += count
        self._is_bulk = count >= MAX_PAYLOAD_BYTES
        if count <= MAX_PAYLOAD_BYTES - HEADER_BYTES and watch.is_ending and self._has_ended(application):
            return self._end_with(count)
        tunnel = self._tunnel
        send, is_written = tunnel.turns.send, True
        for slot in _slots:
            size = min(MAX_PAYLOAD_BYTES, count)
            _pack_header(slot, 0, _DATA, send(FrameType.DATA, size), size)
            is_written = tunnel.write(slot[: size + HEADER_BYTES]) and is_written
            if self._is_copying:
                self.early += slot[HEADER_BYTES : size + HEADER_BYTES]
                if len(self.early) >= MAX_EARLY_BYTES:
                    is_written = False
            count -= size
            if not count:
                break
        if not is_written:
            self.flow = change_flow(self.flow, Flow.BLOCKED)
        return self.flow

    def _carry(self, native: NativeTunnel, application: socket.socket) -> Flow:
        carried, taken = native.carry(application.fileno())
        self.sent += taken
        self._is_bulk = taken >= MAX_PAYLOAD_BYTES
        return self.note_carried(carried)

    def note_carried(self, carried: Carried) -> Flow:
        """Go on as a call of the compiled loop ended; return the flow then.

        Raises:
            OSError: the application's connection broke.
        """
        if carried is _CARRIED_ALL:
            return self.flow
        if carried is Carried.BROKEN or (carried is Carried.ENDED and self.is_broken):
            raise ConnectionResetError
        if carried is Carried.ENDED:
            return self._end()
        self.flow = change_flow(self.flow, Flow.BLOCKED)
        return self.flow

    @property
    def is_lendable(self) -> bool:
        """Whether everything read is written and no copy is kept."""
        return self.flow is _OPEN and not self._is_copying and not self.is_broken

    def unblock(self) -> bool:
        """Go on where the tunnel takes DATA and the copy isn't full; whether this opened the flow again."""
        if self.flow is not Flow.BLOCKED or self._tunnel.is_blocked:
            return False
        if self._is_copying and len(self.early) >= MAX_EARLY_BYTES:
            return False
        self.flow = change_flow(self.flow, Flow.OPEN)
        return True

    # ---- ending ---------------------------------------------------------------------------------------------------

    @property
    def has_ended(self) -> bool:
        """Whether the application has ended its direction."""
        return self.flow is Flow.ENDING or self.flow is Flow.ENDED

    def note_written(self) -> None:
        """Everything has been written, END too if it was sent."""
        if self.flow is Flow.ENDING:
            self.flow = change_flow(self.flow, Flow.ENDED)

    def drop(self) -> None:
        """Initiator: the responder refused. END ends the turn, though the application may go on."""
        if not self.has_ended and self.flow is not Flow.CUT:
            self.flow = change_flow(self.flow, Flow.DROPPED)
            self._tunnel.send(FrameType.END)

    def cut(self) -> None:
        """The application's connection broke, and the tunnel hasn't taken yet what it said before."""
        self.flow = change_flow(self.flow, Flow.CUT)

    def forget_sent(self) -> None:
        """Initiator: the responder refused, or never saw OPEN. It has discarded what came before that was known."""
        self.sent = 0

    def forget_unwritten(self) -> None:
        """The tunnel was lost: what it couldn't pass on wasn't sent."""
        self.sent = max(0, self.sent - self._tunnel.unwritten)

    def stop(self) -> None:
        """The pump has finished."""
        self.flow = change_flow(self.flow, Flow.STOPPED)

    def _end(self) -> Flow:
        is_written = self._tunnel.send(FrameType.END)
        self.flow = change_flow(self.flow, Flow.ENDED if is_written else Flow.ENDING)
        return self.flow

    def _end_with(self, size: int) -> Flow:
        """Write what lies in the first slot, and END with it."""
        slot, turns, end = _slots[0], self._tunnel.turns, HEADER_BYTES + size
        _pack_header(slot, 0, _DATA, turns.send(FrameType.DATA, size), size)
        if self._is_copying:
            self.early += slot[HEADER_BYTES:end]
        _pack_header(slot, end, _END, turns.send(FrameType.END), 0)
        is_written = self._tunnel.write(slot[: end + HEADER_BYTES])
        self.flow = change_flow(self.flow, Flow.ENDED if is_written else Flow.ENDING)
        return self.flow

    def _has_ended(self, application: socket.socket) -> bool:
        """Whether nothing comes after what was read just now."""
        try:
            return not application.recv(1, socket.MSG_PEEK) and not self.is_broken
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            self.is_broken = True  # The next read tells, after what was read now has been sent.
            return False
