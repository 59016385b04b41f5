"""Moves bytes between a plain connection and a TLS one, without frames: for foreign peers.

Belongs here: byte moving in both directions with back-pressure, half-close by close_notify (RFC 8446, section 6.1),
byte counts. Doesn't: the handshake, ending the two connections (the stories).

A connection that ends without close_notify was cut off, by whomever: its other side gets a reset, never a clean end.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from time import monotonic
from typing import Final

from OpenSSL import SSL

from shared.model.policy.decision import Ending
from shared.model.policy.reasons import Reason
from sidecar.pump.ends import Finished, PumpEnd, reset_by
from sidecar.pump.guard import UNGUARDED, Guard
from sidecar.pump.states import Flow, change_flow
from sidecar.sockets.ending import DELIVERY_DEADLINE_S, count_untaken, end_writing
from sidecar.sockets.polling import Callback, poller_of
from sidecar.tls.foreign_handshake import describe_fault
from sidecar.tls.key_limit import MAX_KEY_BYTES, RECORD_OVERHEAD_BYTES
from sidecar.tls.records import Buffer, Records

_MAX_RECORD: Final = 16 * 1024  # RFC 8446, section 5.1
_READ_BYTES: Final = 4 * _MAX_RECORD
# One buffer for each direction and the loop: every callback uses it up before it returns, or copies the rest.
_plain = memoryview(bytearray(_READ_BYTES))
_buffer = Buffer(_READ_BYTES)
# The flow to the plain side while the peer may be read: a rest must not be overtaken.
_READING: Final = frozenset({Flow.OPEN, Flow.DROPPED})
_CUT: Final = frozenset({Ending.POLICY_CHANGED, Ending.SHUTDOWN, Ending.RECORD_LIMIT})
_BROKEN: Final = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT})


class TlsPump:
    """Pumps between a plain connection and a TLS connection after its handshake.

    Arguments:
        tls: on the socket ``peer``.
        plain: the other connection.
        is_peer_source: whether the TLS peer opened this connection, or the plain side did.

    Attributes:
        finished: the one future; done when nothing more will be moved. The caller ends both connections.
        is_peer_to_blame: after a broken end: whether the TLS side broke.
    """

    __slots__ = (
        "_encrypted",
        "_fault",
        "_from_peer",
        "_from_plain",
        "_guard",
        "_is_peer_source",
        "_loop",
        "_peer",
        "_peer_watch",
        "_pinned",
        "_plain",
        "_plain_watch",
        "_read_wants_write",
        "_tls",
        "_tls_records",
        "_to_peer",
        "_to_plain",
        "_waiting",
        "finished",
        "is_peer_to_blame",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        tls: SSL.Connection,
        peer: socket.socket,
        plain: socket.socket,
        is_peer_source: bool,
    ) -> None:
        self._loop = loop
        self._tls = tls
        self._tls_records = Records(tls)
        self._peer = peer
        self._plain = plain
        poller = poller_of(loop)
        self._peer_watch = poller.watch(peer)
        self._plain_watch = poller.watch(plain)
        self._is_peer_source = is_peer_source
        self._from_plain = 0
        self._from_peer = 0
        self._encrypted = 0
        # For the peer: OpenSSL has encrypted the first record of it already. At most one read of the plain side.
        self._pinned = b""
        # For the plain side: at most one read of the TLS side.
        self._waiting = b""
        # ENDED once close_notify was said; CUT while what the plain side said before it broke is written.
        self._to_peer = Flow.NEW
        # ENDED once the plain side was told; DROPPED when it broke, and the peer is only read to see how it ends.
        self._to_plain = Flow.NEW
        self._read_wants_write = False
        self._fault: SSL.Error | None = None  # Of a write; what reading says after it is OpenSSL's own state.
        self._guard: Guard = UNGUARDED
        self.is_peer_to_blame = False
        self.finished = Finished(loop)

    @property
    def sent(self) -> int:
        """Bytes from source to destination."""
        return self._from_peer if self._is_peer_source else self._from_plain

    @property
    def received(self) -> int:
        """Bytes from destination to source."""
        return self._from_plain if self._is_peer_source else self._from_peer

    @property
    def peer(self) -> None:
        """It proves nothing after its beginning."""
        return None

    def guard_by(self, guard: Guard) -> None:
        """Ask this guard before bytes are forwarded, in either direction."""
        self._guard = guard

    def hold_answers(self, on_answer: Callback) -> None:
        """Before ``start``: call back once when the plain side has answered; nothing passes before its release."""
        self._plain_watch.hold_reading(on_answer)

    def release_answers(self) -> None:
        """Let pass what the plain side answers."""
        self._plain_watch.release_reading()

    def start(self) -> None:
        """Begin to move bytes."""
        self._read_plain()
        self._read_peer()

    def abort(self, ending: Ending, reason: Reason | None = None) -> None:
        """Stop moving bytes; the caller resets both connections."""
        self._finish(ending)

    # ---- plain → TLS ----------------------------------------------------------------------------------------------

    def _read_plain(self) -> None:
        self._to_peer = change_flow(self._to_peer, Flow.OPEN)
        self._plain_watch.start_reading(self._on_plain_readable)

    def _on_plain_readable(self) -> None:
        if monotonic() > self._guard.fresh_until and not self._guard.look_again():
            return
        if self._to_plain is Flow.OPEN:
            self._on_peer_readable()  # Since OpenSSL 4.0 nothing is read after a failed write: a last word comes first.
            if self._to_peer is not Flow.OPEN:
                return
        try:
            count = self._plain.recv_into(_plain)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._lose_plain()
            return
        if not count:
            self._plain_watch.stop_reading()
            if self._to_plain is Flow.DROPPED:  # Its error was told once, where writing met it: that end is none.
                self._lose_plain()
                return
            self._to_peer = change_flow(self._to_peer, Flow.ENDING)
            self._say_end()
            return
        self._write(_plain[:count])

    def _write(self, data: memoryview) -> bool:
        """Write in records; False when a rest is pinned, or nothing more can be written."""
        start, size = 0, len(data)
        while start < size:
            try:
                count = self._tls_records.send(data[start : start + _MAX_RECORD])
            except SSL.WantWriteError:
                self._pin(data[start:])
                return False
            except SSL.Error as error:
                self._judge_later(error)
                return False
            start += count
            self._from_plain += count
            self._encrypted += count + RECORD_OVERHEAD_BYTES
        if self._encrypted > MAX_KEY_BYTES:  # pyOpenSSL has no key update, and a foreign peer knows no REKEY.
            self._finish(Ending.RECORD_LIMIT)
            return False
        return True

    def _pin(self, data: memoryview) -> None:
        self._pinned = bytes(data)
        if self._to_peer is Flow.OPEN:
            self._to_peer = change_flow(self._to_peer, Flow.BLOCKED)
            self._plain_watch.stop_reading()
        self._peer_watch.start_writing(self._on_peer_writable)

    def _on_peer_writable(self) -> None:
        self._peer_watch.stop_writing()
        pinned, self._pinned = self._pinned, b""
        if pinned and not self._write(memoryview(pinned)):
            return
        if self._to_peer is Flow.CUT:
            self._finish(self._reset_by_plain())
            return
        if self._to_peer is Flow.ENDING:
            self._say_end()
        elif self._to_peer is Flow.BLOCKED:
            self._read_plain()
        if self._read_wants_write and self._to_plain in _READING:
            self._read_wants_write = False
            self._on_peer_readable()

    def _say_end(self) -> None:
        """Say close_notify: our direction has ended, the peer's goes on."""
        try:
            self._tls.shutdown()
        except SSL.WantWriteError:
            self._peer_watch.start_writing(self._on_peer_writable)
            return
        except SSL.Error as error:
            self._judge_later(error)
            return
        self._to_peer = change_flow(self._to_peer, Flow.ENDED)
        self._check_finished()

    # ---- TLS → plain ----------------------------------------------------------------------------------------------

    def _read_peer(self) -> None:
        self._to_plain = change_flow(self._to_plain, Flow.OPEN)
        self._peer_watch.start_reading(self._on_peer_readable)
        if self._read_wants_write:
            self._peer_watch.start_writing(self._on_peer_writable)

    def _on_peer_readable(self) -> None:
        if monotonic() > self._guard.fresh_until and not self._guard.look_again():
            return
        filled, failure, has_ended = 0, None, False
        receive = self._tls_records.receive
        try:
            # With room for whole records only, OpenSSL keeps none back, and the socket itself tells what is left.
            while filled + _MAX_RECORD <= _READ_BYTES:
                count = receive(_buffer, filled, _MAX_RECORD)
                filled += count
                if count < _MAX_RECORD:
                    break
        except SSL.WantReadError:
            pass
        except SSL.WantWriteError:  # The answer to a key update.
            self._read_wants_write = True
            self._peer_watch.start_writing(self._on_peer_writable)
        except SSL.ZeroReturnError:
            has_ended = True
        except SSL.Error as error:
            failure = error
        if filled and not self._deliver(_buffer.view[:filled]):
            return
        if failure is not None:
            self._lose_peer(failure)
        elif has_ended:
            self._peer_watch.stop_reading()
            if self._to_plain is not Flow.DROPPED:
                self._to_plain = change_flow(self._to_plain, Flow.ENDING)
                if not self._waiting:
                    self._end_plain()

    def _deliver(self, data: memoryview) -> bool:
        """Write to the plain side, and keep the rest; False when it broke."""
        if self._to_plain is Flow.DROPPED:
            return True
        try:
            written = self._plain.send(data)
        except (BlockingIOError, InterruptedError):
            written = 0
        except OSError:
            self._lose_sink()
            return False
        self._from_peer += written
        if written < len(data):
            self._waiting = bytes(data[written:])
            self._to_plain = change_flow(self._to_plain, Flow.BLOCKED)
            self._peer_watch.stop_reading()
            self._plain_watch.start_writing(self._on_plain_writable)
        return True

    def _on_plain_writable(self) -> None:
        if monotonic() > self._guard.fresh_until and not self._guard.look_again():
            return
        try:
            written = self._plain.send(self._waiting)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._lose_sink()
            return
        self._from_peer += written
        self._waiting = self._waiting[written:]
        if self._waiting:
            return
        self._plain_watch.stop_writing()
        if self._to_plain is Flow.ENDING:
            self._end_plain()
        else:
            self._read_peer()

    def _end_plain(self) -> None:
        end_writing(self._plain)
        self._to_plain = change_flow(self._to_plain, Flow.ENDED)
        self._check_finished()

    # ---- endings --------------------------------------------------------------------------------------------------

    def _check_finished(self) -> None:
        if self._to_peer is Flow.ENDED and self._to_plain is Flow.ENDED:
            self._finish(Ending.FINISHED)

    def _lose_sink(self) -> None:
        """The plain side takes no more. What it said before it broke is read to the end, within a deadline."""
        if self._to_peer is not Flow.OPEN and self._to_peer is not Flow.BLOCKED:
            self._lose_plain()
            return
        self._waiting = b""
        self._plain_watch.stop_writing()
        self._peer_watch.stop_reading()
        self._to_plain = change_flow(self._to_plain, Flow.DROPPED)
        self._loop.call_later(DELIVERY_DEADLINE_S, self._finish, self._reset_by_plain())

    def _lose_plain(self) -> None:
        """The plain side broke: what it said before is still written, within a deadline."""
        self._plain_watch.stop_reading()
        self._plain_watch.stop_writing()
        if not self._pinned:
            self._finish(self._reset_by_plain())
            return
        self._to_peer = change_flow(self._to_peer, Flow.CUT)
        if self._to_plain is not Flow.DROPPED:
            self._to_plain = change_flow(self._to_plain, Flow.DROPPED)
        self._peer_watch.stop_reading()
        self._loop.call_later(DELIVERY_DEADLINE_S, self._finish, self._reset_by_plain())

    def _reset_by_plain(self) -> Ending:
        return reset_by(is_source=not self._is_peer_source)

    def _judge_later(self, error: SSL.Error) -> None:
        # A write to a peer that has closed fails though its last bytes are still readable: read before judging, where
        # OpenSSL does so (before 4.0).
        self._pinned = b""
        self._fault = error
        self._plain_watch.stop_reading()
        self._peer_watch.stop_writing()
        self._loop.call_soon(self._judge, error)

    def _judge(self, error: SSL.Error) -> None:
        for _ in range(16):  # Bounded: more than a socket buffer of full records would be no last word.
            if self._to_plain is not Flow.OPEN:
                break
            self._on_peer_readable()
        self._lose_peer(error)

    def _lose_peer(self, error: SSL.Error) -> None:
        if self.finished.done():
            return
        self.is_peer_to_blame = True
        error = self._fault or error
        if isinstance(error, SSL.SysCallError) and error.args and error.args[0] in _BROKEN:
            self._finish(reset_by(is_source=self._is_peer_source))
        else:
            self._finish(Ending.PEER_LOST, describe_fault(error))

    def _finish(self, ending: Ending, detail: str = "") -> None:
        if not self.finished.done():
            self._peer_watch.close()
            self._plain_watch.close()
            if ending is not Ending.FINISHED:
                self._forget_untaken(ending)
            self._to_peer = change_flow(self._to_peer, Flow.STOPPED)
            self._to_plain = change_flow(self._to_plain, Flow.STOPPED)
            self.finished.set_result(PumpEnd(ending=ending, unsent=self._waiting, detail=detail))

    def _forget_untaken(self, ending: Ending) -> None:
        """The peer broke, or is reset at once: what its kernel hasn't got wasn't sent."""
        if self.is_peer_to_blame or ending in _CUT:
            self._from_plain = max(0, self._from_plain - count_untaken(self._peer))
