"""The sidecar's own events: constant names plus fields, JSON Lines on standard error, written off the loop.

Never a key, a token or a payload. Decisions aren't events: they go through ``connection/recording.py``.
"""

from __future__ import annotations

import time
from typing import Final

import msgspec

from shared.runtime.sinks import LineSink

_encoder = msgspec.json.Encoder()


LEVELS: Final = ("debug", "info", "warning", "error")
# What is said when nothing is wrong, and what is a fault that doesn't mend itself; everything else is a warning.
_INFO: Final = frozenset(
    {
        "sidecar_ready", "sidecar_draining", "sidecar_stopped", "ca_stream_resumed", "joined_again", "output_recovered",
        "connect_queue_reopened", "host_resolved",
    }
)  # fmt: skip
_ERROR: Final = frozenset({"task_failed", "certificate_expired"})
# Written at every level: it was asked for by itself.
_ASKED_FOR: Final = frozenset({"tunnel_frame"})


class Events:
    """Emits events to a sink; never blocks, what doesn't fit is counted by the sink.

    Arguments:
        level: one of ``LEVELS``; what is below it isn't written. There is nothing below ``info`` yet.
    """

    def __init__(self, sink: LineSink, level: str = "info") -> None:
        self._sink = sink
        self._rank = LEVELS.index(level)
        self.counts: dict[str, int] = {}  # By event, of which the code names a fixed number.

    @property
    def level(self) -> str:
        """The least level that is written."""
        return LEVELS[self._rank]

    @property
    def lost(self) -> int:
        """Events that weren't written: there was no room, or nothing reads them."""
        return self._sink.lost_lines

    def set_level(self, level: str) -> None:
        """Write events of this level, one of ``LEVELS``, and above from now on."""
        self._rank = LEVELS.index(level)

    def emit(self, event: str, **fields: str | int | float | bool | None) -> bool:
        """Write one event with its fields; return False where there was no room for it."""
        self.counts[event] = self.counts.get(event, 0) + 1
        level = "info" if event in _INFO else "error" if event in _ERROR else "warning"
        if LEVELS.index(level) < self._rank and event not in _ASKED_FOR:
            return True
        return self._sink.write(_encoder.encode({"time": round(time.time(), 3), "event": event, **fields}) + b"\n")

    def fail(self, task: str, error: BaseException) -> None:
        """Write that a background task failed: for ``Tasks``."""
        self.emit("task_failed", task=task, error=type(error).__name__, message=str(error)[:500])
