"""The sidecar's own events: constant names plus fields, JSON Lines on standard error, written off the loop.

Never a key, a token or a payload. Decisions aren't events: they go through ``record.py``.
"""

from __future__ import annotations

import time

import msgspec

from shared.runtime.sinks import LineSink

_encoder = msgspec.json.Encoder()


class Events:
    """Emits events to a sink; never blocks, what doesn't fit is counted by the sink."""

    def __init__(self, sink: LineSink) -> None:
        self._sink = sink

    def emit(self, event: str, **fields: str | int | float | bool | None) -> None:
        """Write one event with its fields."""
        self._sink.write(_encoder.encode({"time": round(time.time(), 3), "event": event, **fields}) + b"\n")

    def fail(self, task: str, error: BaseException) -> None:
        """Write that a background task failed: for ``Tasks``."""
        self.emit("task_failed", task=task, error=type(error).__name__, message=str(error)[:500])
