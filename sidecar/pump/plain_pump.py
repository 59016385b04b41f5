"""Moves bytes between two plain connections, as ``tunnel_pump.py`` does between one and a tunnel.

Belongs here: byte moving in both directions with back-pressure, half-close and byte counts. Doesn't: ending the two
connections, decisions and records (the stories).
"""

from __future__ import annotations

import asyncio
import socket
from time import monotonic
from typing import Final

from shared.model.policy.decision import Ending
from shared.model.policy.reasons import Reason
from sidecar.pump.ends import Finished, PumpEnd, reset_by
from sidecar.pump.guard import UNGUARDED, Guard
from sidecar.pump.states import Flow, change_flow
from sidecar.sockets.ending import DELIVERY_DEADLINE_S, count_untaken, end_writing
from sidecar.sockets.polling import Callback, Watch, poller_of

# One buffer for the loop: every callback uses it up before it returns, or copies what it couldn't pass on.
_plain: Final = memoryview(bytearray(64 * 1024))


class PlainPump:
    """Pumps between two plain connections: the source's and the destination's.

    Attributes:
        guard: asked before bytes are forwarded.
        sent, received: bytes from source to destination, and back.
    """

    __slots__ = ("_back", "_deadline", "_forth", "_loop", "_watches", "finished", "guard")

    def __init__(self, loop: asyncio.AbstractEventLoop, source: socket.socket, destination: socket.socket) -> None:
        self._loop = loop
        self.finished = Finished(loop)
        self.guard: Guard = UNGUARDED
        self._deadline: asyncio.TimerHandle | None = None
        poller = poller_of(loop)
        self._watches = (poller.watch(source), poller.watch(destination))
        near, far = self._watches
        self._forth = _Direction(self, source, near, destination, far)
        self._back = _Direction(self, destination, far, source, near)

    @property
    def sent(self) -> int:
        """Bytes from source to destination."""
        return self._forth.moved

    @property
    def received(self) -> int:
        """Bytes from destination to source."""
        return self._back.moved

    @property
    def peer(self) -> None:
        """It proves nothing after its beginning."""
        return None

    def guard_by(self, guard: Guard) -> None:
        """Ask this guard before bytes are forwarded, in either direction."""
        self.guard = guard

    def hold_answers(self, on_answer: Callback) -> None:
        """Before ``start``: call back once when the destination has answered; nothing passes before its release."""
        self._watches[1].hold_reading(on_answer)

    def release_answers(self) -> None:
        """Let pass what the destination answers."""
        self._watches[1].release_reading()

    def start(self) -> None:
        """Begin to move bytes."""
        self._forth.start()
        self._back.start()

    def abort(self, ending: Ending, reason: Reason | None = None) -> None:
        """Stop moving bytes; the caller resets both connections."""
        self._finish(ending)

    def on_source_ended(self, direction: _Direction) -> None:
        """Pass a half-close on; an end that follows a failed write is a reset that the write has met already."""
        if self._opposite(direction).flow is Flow.DROPPED:
            self.on_source_broken(direction)
            return
        direction.end()
        if self._opposite(direction).flow is Flow.ENDED:
            self._finish(Ending.FINISHED)

    def on_source_broken(self, direction: _Direction) -> None:
        """Finish: everything that came before has been written."""
        self._finish(reset_by(is_source=direction is self._forth))

    def on_sink_broken(self, direction: _Direction) -> None:
        """Carry what the sink said before it broke, within a deadline; then finish."""
        opposite = self._opposite(direction)
        if opposite.flow is Flow.OPEN or opposite.flow is Flow.BLOCKED:
            direction.drop()
            self._deadline = self._loop.call_later(DELIVERY_DEADLINE_S, self.on_source_broken, opposite)
        elif opposite.flow is Flow.DROPPED:  # Now both are broken: this direction's source was the first.
            self.on_source_broken(direction)
        else:
            self.on_source_broken(opposite)

    def _opposite(self, direction: _Direction) -> _Direction:
        return self._back if direction is self._forth else self._forth

    def _finish(self, ending: Ending) -> None:
        if self.finished.done():
            return
        if self._deadline is not None:
            self._deadline.cancel()
        for watch in self._watches:
            watch.close()
        self._forth.stop()
        self._back.stop()
        unsent = b""
        if ending is Ending.RESET_BY_SOURCE:
            unsent = self._forth.rest
        elif ending is Ending.RESET_BY_DESTINATION:
            unsent = self._back.rest
        if ending is not Ending.FINISHED and ending is not Ending.RESET_BY_SOURCE:
            self._forth.forget_untaken()
        self.finished.set_result(PumpEnd(ending=ending, unsent=unsent))


class _Direction:
    """One direction between two plain connections.

    Attributes:
        flow: what it is doing.
        moved: bytes that its sink's kernel has taken.
        rest: those that its sink hasn't taken yet; at most one read.
    """

    __slots__ = ("_pump", "_reads", "_sink", "_source", "_writes", "flow", "moved", "rest")

    def __init__(
        self, pump: PlainPump, source: socket.socket, reads: Watch, sink: socket.socket, writes: Watch
    ) -> None:
        self._pump = pump
        self._source = source
        self._reads = reads
        self._sink = sink
        self._writes = writes
        self.flow = Flow.NEW
        self.moved = 0
        self.rest = b""

    def start(self) -> None:
        """Read the source: for the first time, or again."""
        self.flow = change_flow(self.flow, Flow.OPEN)
        self._reads.start_reading(self._on_readable)

    def end(self) -> None:
        """Tell the sink that the source has ended."""
        self._reads.stop_reading()
        end_writing(self._sink)
        self.flow = change_flow(self.flow, Flow.ENDED)

    def drop(self) -> None:
        """The sink broke: nothing more is read for it."""
        self._reads.stop_reading()
        self._writes.stop_writing()
        self.flow = change_flow(self.flow, Flow.DROPPED)

    def forget_untaken(self) -> None:
        """The sink broke, or is reset at once: what its kernel hasn't got wasn't moved."""
        self.moved = max(0, self.moved - count_untaken(self._sink))

    def stop(self) -> None:
        """The pump has finished."""
        self.flow = change_flow(self.flow, Flow.STOPPED)

    def _on_readable(self) -> None:
        guard = self._pump.guard
        if monotonic() > guard.fresh_until and not guard.look_again():
            return
        try:
            count = self._source.recv_into(_plain)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._pump.on_source_broken(self)
            return
        if not count:
            self._pump.on_source_ended(self)
            return
        try:
            written = self._sink.send(_plain[:count])
        except (BlockingIOError, InterruptedError):
            written = 0
        except OSError:
            self._pump.on_sink_broken(self)
            return
        self.moved += written
        if written < count:
            self.rest = bytes(_plain[written:count])
            self.flow = change_flow(self.flow, Flow.BLOCKED)
            self._reads.stop_reading()
            self._writes.start_writing(self._on_writable)

    def _on_writable(self) -> None:
        guard = self._pump.guard
        if monotonic() > guard.fresh_until and not guard.look_again():
            return
        try:
            written = self._sink.send(self.rest)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._pump.on_sink_broken(self)
            return
        self.moved += written
        self.rest = self.rest[written:]
        if not self.rest:
            self._writes.stop_writing()
            self.start()
