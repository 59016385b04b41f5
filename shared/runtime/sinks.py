"""A sink for lines, with a thread of its own, so that a full pipe or disk never blocks the event loop.

Belongs here: the queue, its bound, the thread, what is lost, and opening a file anew. Doesn't: what the lines say, and
who is told of a fault.
"""

from __future__ import annotations

import errno
import os
import queue
import threading
import time
from pathlib import Path
from typing import Final, Literal

RETRY_S: Final = 1.0
FILE_MODE: Final = 0o640
# The reader of a pipe or terminal is gone, and none will come: nothing heals these.
_FOR_GOOD: Final = frozenset({errno.EPIPE, errno.EBADF})
_Job = bytes | Literal["close", "reopen"]


def open_file(path: Path) -> int:
    """Open a file for lines to be appended and return its descriptor.

    Raises:
        OSError: it can't be opened or made.
    """
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)


class LineSink:
    """Writes whole lines to a descriptor, in order, from its own thread.

    A disk that is full, or fails, is tried again every second, and lines wait meanwhile; only what doesn't fit is lost.

    Arguments:
        descriptor: where to write; it stays the caller's.
        path: of the file that it is, so that it can be opened anew; None: it isn't one.
        max_bytes: lines waiting beyond it are not taken.
        urgent_max_bytes: the same for urgent lines.

    Attributes:
        is_broken: nothing will be written any more.
    """

    def __init__(
        self,
        descriptor: int,
        *,
        path: Path | None = None,
        max_bytes: int = 8 * 1024 * 1024,
        urgent_max_bytes: int = 32 * 1024 * 1024,
    ) -> None:
        self._descriptor = descriptor
        self._path = path
        self._max_bytes = max_bytes
        self._urgent_max_bytes = urgent_max_bytes
        self._queue: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._put_bytes = 0  # Written by the caller's thread alone …
        self._refused_lines = 0
        self._written_bytes = 0  # … and these by the sink's alone, so that no lock is needed.
        self._dropped_lines = 0
        self._is_closing = False
        self._wake = threading.Event()
        self._write_fault = ""
        self._open_fault = ""
        self.is_broken = False
        self._thread = threading.Thread(target=self._run, name=f"sink-{descriptor}", daemon=True)
        self._thread.start()

    @property
    def waiting_bytes(self) -> int:
        """How many bytes wait to be written."""
        return self._put_bytes - self._written_bytes

    @property
    def lost_lines(self) -> int:
        """How many lines were never written, and won't be."""
        return self._refused_lines + self._dropped_lines

    @property
    def fault(self) -> str:
        """Why nothing can be written now, or the file couldn't be opened anew; empty when all is well."""
        return self._write_fault or self._open_fault

    def has_room(self, *, is_urgent: bool) -> bool:
        """Return whether lines would be taken now."""
        return self.waiting_bytes < (self._urgent_max_bytes if is_urgent else self._max_bytes)

    def write(self, lines: bytes, *, is_urgent: bool = False) -> bool:
        """Queue one or more whole lines; return False, and count them as lost, when there is no room."""
        if self.is_broken or not self.has_room(is_urgent=is_urgent):
            self._refused_lines += lines.count(b"\n")
            return False
        self._put_bytes += len(lines)
        self._queue.put(lines)
        return True

    def reopen(self) -> None:
        """Open the file at the path anew, behind what waits: the old one was renamed. Not a file: nothing happens.

        Where it can't be opened, the old one is written on, and ``fault`` says why.
        """
        if self._path is not None:
            self._queue.put("reopen")
            self._wake.set()  # What can't be written to the old file is tried on the new one.

    def close(self, *, timeout_s: float) -> bool:
        """Write what waits, for at most ``timeout_s``; return whether all was written."""
        self._is_closing = True
        self._queue.put("close")
        self._wake.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive() and not self.is_broken

    def _run(self) -> None:
        while (job := self._queue.get()) != "close":
            if isinstance(job, bytes):
                self._write_all(job)
                self._written_bytes += len(job)
            else:
                self._reopen()

    def _write_all(self, lines: bytes) -> None:
        done = 0
        while done < len(lines) and not self.is_broken:
            try:
                done += os.write(self._descriptor, memoryview(lines)[done:])
                self._write_fault = ""
            except BlockingIOError:  # Somebody made the shared descriptor non-blocking.
                time.sleep(0.01)
            except OSError as error:
                self._write_fault = error.strerror or type(error).__name__
                if error.errno in _FOR_GOOD or self._is_closing:
                    # The component goes on: the CA still gets the records, and losses are counted.
                    self.is_broken = True
                elif self._wait_or_reopen():
                    done = lines.rfind(b"\n", 0, done) + 1  # A new file begins with a whole line.
        if done < len(lines):
            self._dropped_lines += lines.count(b"\n", done)

    def _wait_or_reopen(self) -> bool:
        """Wait before the next try; return whether the file was opened anew in that time."""
        self._wake.clear()
        if self._path is not None and self._is_rotated():
            return self._reopen()
        self._wake.wait(RETRY_S)
        return False

    def _is_rotated(self) -> bool:
        """Tell whether another file, or none, is at the path by now."""
        if self._path is None:
            return False
        try:
            there, here = self._path.stat(), os.fstat(self._descriptor)
        except OSError:
            return True
        return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)

    def _reopen(self) -> bool:
        if self._path is None:
            return False
        try:
            descriptor = open_file(self._path)
        except OSError as error:
            self._open_fault = f"{self._path} can't be opened: {error.strerror}"
            return False
        try:
            os.dup2(descriptor, self._descriptor, inheritable=False)
        finally:
            os.close(descriptor)
        self._open_fault = ""
        return True
