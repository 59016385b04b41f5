"""Moves bytes between two plain connections, as ``tunnel_pump.py`` does between one and a tunnel.

Belongs here: byte moving in both directions with back-pressure, half-close and byte counts. Doesn't: ending the two
connections, decisions and records (the stories).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from shared.model.policy.decision import Ending
from sidecar.pump.ends import PumpEnd, end_writing, reset_by
from sidecar.pump.states import Flow, change_flow
from sidecar.sockets.polling import Watch, poller_of

# One buffer for the loop: every callback uses it up before it returns, or copies what it couldn't pass on.
_plain: Final = memoryview(bytearray(64 * 1024))


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
        self._forth = _Direction(source, near, destination, far, self._on_ended)
        self._back = _Direction(destination, far, source, near, self._on_ended)

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
        self._forth.start()
        self._back.start()

    def abort(self, ending: Ending) -> None:
        """Stop moving bytes; the caller resets both connections."""
        self._finish(ending)

    def _on_ended(self, broken: socket.socket | None) -> None:
        if broken is not None:
            self._finish(reset_by(is_source=broken is self._forth.source))
        elif self._forth.flow is Flow.ENDED and self._back.flow is Flow.ENDED:
            self._finish(Ending.FINISHED)

    def _finish(self, ending: Ending) -> None:
        if not self.finished.done():
            for watch in self._watches:
                watch.close()
            self._forth.stop()
            self._back.stop()
            self.finished.set_result(PumpEnd(ending=ending))


class _Direction:
    """One direction between two plain connections.

    Attributes:
        source: where its bytes come from.
        flow: what it is doing.
        moved: bytes that came.
    """

    __slots__ = ("_on_ended", "_reads", "_rest", "_sink", "_writes", "flow", "moved", "source")

    def __init__(
        self,
        source: socket.socket,
        reads: Watch,
        sink: socket.socket,
        writes: Watch,
        on_ended: Callable[[socket.socket | None], None],
    ) -> None:
        self._reads = reads
        self._writes = writes
        self.source = source
        self._sink = sink
        self._on_ended = on_ended
        self._rest = b""
        self.flow = Flow.NEW
        self.moved = 0

    def start(self) -> None:
        self.flow = change_flow(self.flow, Flow.OPEN)
        self._reads.start_reading(self._on_readable)

    def stop(self) -> None:
        self.flow = change_flow(self.flow, Flow.STOPPED)

    def _on_readable(self) -> None:
        try:
            count = self.source.recv_into(_plain)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._on_ended(self.source)
            return
        if not count:
            self._reads.stop_reading()
            end_writing(self._sink)
            self.flow = change_flow(self.flow, Flow.ENDED)
            self._on_ended(None)
            return
        self.moved += count
        try:
            written = self._sink.send(_plain[:count])
        except (BlockingIOError, InterruptedError):
            written = 0
        except OSError:
            self._on_ended(self._sink)
            return
        if written < count:
            self._rest = bytes(_plain[written:count])
            self.flow = change_flow(self.flow, Flow.BLOCKED)
            self._reads.stop_reading()
            self._writes.start_writing(self._on_writable)

    def _on_writable(self) -> None:
        try:
            written = self._sink.send(self._rest)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._on_ended(self._sink)
            return
        self._rest = self._rest[written:]
        if not self._rest:
            self._writes.stop_writing()
            self.start()
