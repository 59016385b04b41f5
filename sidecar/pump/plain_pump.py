"""Moves bytes between two plain connections, as ``tunnel_pump.py`` does between one and a tunnel.

Belongs here: byte moving in both directions with back-pressure, half-close and byte counts. Doesn't: ending the two
connections, decisions and records (the stories).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from shared.model.policy.decision import Ending
from sidecar.pump.tunnel_pump import PumpEnd
from sidecar.sockets.polling import Watch, poller_of

# One buffer for the loop: every callback uses it up before it returns, or copies what it couldn't pass on.
_plain = memoryview(bytearray(64 * 1024))


class PlainPump:
    """Pumps between two plain connections: the source's and the destination's.

    Attributes:
        sent, received: bytes from source to destination, and back.
    """

    __slots__ = ("_back", "_forth", "_watches", "finished")

    def __init__(self, loop: asyncio.AbstractEventLoop, source: socket.socket, destination: socket.socket) -> None:
        self.finished: asyncio.Future[PumpEnd] = loop.create_future()
        poller = poller_of(loop)
        self._watches = (poller.watch(source), poller.watch(destination))
        near, far = self._watches
        self._forth = _Flow(source, near, destination, far, self._on_flow_ended)
        self._back = _Flow(destination, far, source, near, self._on_flow_ended)

    @property
    def sent(self) -> int:
        """Bytes from source to destination."""
        return self._forth.moved

    @property
    def received(self) -> int:
        """Bytes from destination to source."""
        return self._back.moved

    def start(self) -> None:
        """Begin to move bytes."""
        self._forth.resume()
        self._back.resume()

    def abort(self, ending: Ending) -> None:
        """Stop moving bytes; the caller resets both connections."""
        self._finish(ending)

    def _on_flow_ended(self, flow: _Flow, broken: socket.socket | None) -> None:
        if broken is not None:
            is_source = broken is self._forth.source
            self._finish(Ending.RESET_BY_SOURCE if is_source else Ending.RESET_BY_DESTINATION)
        elif self._forth.is_ended and self._back.is_ended:
            self._finish(Ending.FINISHED)

    def _finish(self, ending: Ending) -> None:
        if not self.finished.done():
            for watch in self._watches:
                watch.close()
            self.finished.set_result(PumpEnd(ending=ending))


class _Flow:
    """One direction between two plain connections."""

    __slots__ = (
        "_is_reading",
        "_is_writing",
        "_on_ended",
        "_reads",
        "_waiting",
        "_writes",
        "destination",
        "is_ended",
        "moved",
        "source",
    )

    def __init__(
        self,
        source: socket.socket,
        reads: Watch,
        destination: socket.socket,
        writes: Watch,
        on_ended: Callable[[_Flow, socket.socket | None], None],
    ) -> None:
        self._reads = reads
        self._writes = writes
        self.source = source
        self.destination = destination
        self._on_ended = on_ended
        self._waiting = b""
        self._is_reading = False
        self._is_writing = False
        self.is_ended = False
        self.moved = 0

    def resume(self) -> None:
        if not self._is_reading:
            self._is_reading = True
            self._reads.start_reading(self._on_readable)

    def stop(self) -> None:
        if self._is_reading:
            self._is_reading = False
            self._reads.stop_reading()
        if self._is_writing:
            self._is_writing = False
            self._writes.stop_writing()

    def _on_readable(self) -> None:
        try:
            count = self.source.recv_into(_plain)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._on_ended(self, self.source)
            return
        if not count:
            self.stop()
            self.is_ended = True
            try:
                self.destination.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # It has gone; the other flow tells how.
            self._on_ended(self, None)
            return
        self.moved += count
        try:
            written = self.destination.send(_plain[:count])
        except (BlockingIOError, InterruptedError):
            written = 0
        except OSError:
            self._on_ended(self, self.destination)
            return
        if written < count:
            self._waiting = bytes(_plain[written:count])
            self.stop()
            self._is_writing = True
            self._writes.start_writing(self._on_writable)

    def _on_writable(self) -> None:
        try:
            written = self.destination.send(self._waiting)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._on_ended(self, self.destination)
            return
        self._waiting = self._waiting[written:]
        if not self._waiting:
            self.stop()
            self.resume()
