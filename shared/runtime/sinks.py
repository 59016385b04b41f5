"""A sink for lines, with a thread of its own, so that a full pipe or a slow disk never blocks the event loop.

Belongs here: the queue, its bound, the thread. Doesn't: what the lines say.
"""

from __future__ import annotations

import os
import queue
import threading
import time


class LineSink:
    """Writes whole lines to a descriptor, in order, from its own thread.

    Arguments:
        descriptor: where to write; it stays the caller's.
        max_bytes: lines waiting beyond it are not taken.
        urgent_max_bytes: the same for urgent lines.
    """

    def __init__(
        self, descriptor: int, *, max_bytes: int = 8 * 1024 * 1024, urgent_max_bytes: int = 32 * 1024 * 1024
    ) -> None:
        self._descriptor = descriptor
        self._max_bytes = max_bytes
        self._urgent_max_bytes = urgent_max_bytes
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._put_bytes = 0  # Written by the caller's thread alone …
        self._written_bytes = 0  # … and this one by the sink's alone, so that no lock is needed.
        self.lost_lines = 0
        self.is_broken = False
        self._thread = threading.Thread(target=self._run, name=f"sink-{descriptor}", daemon=True)
        self._thread.start()

    @property
    def waiting_bytes(self) -> int:
        """How many bytes wait to be written."""
        return self._put_bytes - self._written_bytes

    def has_room(self, *, is_urgent: bool) -> bool:
        """Return whether lines would be taken now."""
        return self.waiting_bytes < (self._urgent_max_bytes if is_urgent else self._max_bytes)

    def write(self, lines: bytes, *, is_urgent: bool = False) -> bool:
        """Queue one or more whole lines; return False, and count them as lost, when there is no room."""
        if self.is_broken or not self.has_room(is_urgent=is_urgent):
            self.lost_lines += lines.count(b"\n")
            return False
        self._put_bytes += len(lines)
        self._queue.put(lines)
        return True

    def close(self, *, timeout_s: float) -> bool:
        """Write what waits, for at most ``timeout_s``; return whether all was written."""
        self._queue.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive() and not self.is_broken

    def _run(self) -> None:
        while (lines := self._queue.get()) is not None:
            view = memoryview(lines)
            while view and not self.is_broken:
                try:
                    view = view[os.write(self._descriptor, view) :]
                except BlockingIOError:  # Somebody made the shared descriptor non-blocking.
                    time.sleep(0.01)
                except OSError:
                    # The reader is gone. The sidecar continues: the CA still gets the records, and losses are counted.
                    self.is_broken = True
                    self.lost_lines += lines.count(b"\n")
            self._written_bytes += len(lines)
