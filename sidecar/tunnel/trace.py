"""A trace of frames for who debugs tunnels: an event for each frame that a tunnel has sent or received.

Belongs here: which frames are in the bytes that a tunnel writes and reads, and the event. Doesn't: whether frames are
traced (``settings/trace.py``). It sits below the tunnel, at its records, which are chosen when the tunnel is made: one
that isn't traced knows nothing of it. Never a payload.
"""

from __future__ import annotations

from typing import Final, Protocol

from OpenSSL import SSL

from shared.model.errors import ProtocolError
from sidecar.tls.records import Buffer, Records
from sidecar.tunnel.frame_reader import FrameReader
from sidecar.tunnel.frames import MAX_FRAME_BYTES, FrameType

# A part of a frame that was left over, and a record.
_BUFFER_BYTES: Final = 2 * MAX_FRAME_BYTES


class EventWriter(Protocol):
    """Where the trace is written: ``sidecar.events.Events``."""

    def emit(self, event: str, **fields: str | int | float | bool | None) -> object:
        """Write one event with its fields."""


class FrameTrace:
    """Traces tunnels' frames.

    Arguments:
        events: one event a frame is written there.
    """

    def __init__(self, events: EventWriter) -> None:
        self._events = events

    def records_of(self, tls: SSL.Connection, tunnel: str) -> Records:
        """Return an established connection's records, whose frames are traced as those of the tunnel with this id."""
        return _TracedRecords(
            tls, _Direction(self._events, tunnel, "sent"), _Direction(self._events, tunnel, "received")
        )


class _TracedRecords(Records):
    __slots__ = ("_received", "_sent")

    def __init__(self, tls: SSL.Connection, sent: _Direction, received: _Direction) -> None:
        super().__init__(tls)
        self._sent = sent
        self._received = received

    def receive(self, buffer: Buffer, offset: int, most: int) -> int:
        count = super().receive(buffer, offset, most)
        self._received.trace(buffer.view[offset : offset + count])
        return count

    def send(self, data: bytes | memoryview) -> int:
        count = super().send(data)
        self._sent.trace(memoryview(data)[:count])
        return count


class _Direction:
    """One direction's frames, each written once its last byte has passed."""

    def __init__(self, events: EventWriter, tunnel: str, name: str) -> None:
        self._events = events
        self._tunnel = tunnel
        self._name = name
        self._reader = FrameReader()
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._is_broken = False

    def trace(self, data: memoryview) -> None:
        """Write an event for each frame that ends in ``data``."""
        if self._is_broken:
            return
        reader = self._reader
        start = reader.restore(self._buffer)
        end = start + len(data)
        self._buffer[start:end] = data
        reader.feed(self._buffer[:end])
        try:
            while frame := reader.next_frame():
                self._events.emit(
                    "tunnel_frame",
                    tunnel=self._tunnel,
                    direction=self._name,
                    frame=FrameType(frame).name,
                    epoch=reader.epoch,
                    length=len(reader.payload),
                )
        except ProtocolError:
            self._is_broken = True  # The tunnel meets it too, and says it.
            reader.clear()
        else:
            reader.keep_rest()
