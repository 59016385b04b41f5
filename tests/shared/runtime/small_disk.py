"""Run in a mount namespace of its own: a log on a disk that is full for a while, and deleted there."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from shared.runtime.sinks import LineSink, open_file

LINE = b"x" * 1023 + b"\n"


def wait(is_done: Callable[[], bool]) -> None:
    """Wait until something holds, at most half a minute."""
    until = time.monotonic() + 30
    while not is_done():
        if time.monotonic() > until:
            raise TimeoutError
        time.sleep(0.01)


def mount(directory: Path) -> None:
    """Mount a disk of 64 KiB there (mount(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", os.fsencode(directory), b"tmpfs", 0, b"size=64k"):
        raise OSError(ctypes.get_errno(), "mount")


def main(directory: Path) -> None:
    """Fill the disk, free it, fill it again and delete the log; print what was found."""
    mount(directory)
    path, ballast = directory / "log", directory / "ballast"
    ballast.write_bytes(b"b" * 40_000)
    descriptor = open_file(path)
    sink = LineSink(descriptor, path=path, max_bytes=60_000)
    taken = sum(sink.write(LINE) for _ in range(100))
    wait(lambda: bool(sink.fault))
    print("fault", sink.fault)
    print("lost", sink.lost_lines == 100 - taken > 0)
    ballast.unlink()
    wait(lambda: not sink.fault and sink.waiting_bytes == 0)
    print(
        "whole lines", set(path.read_bytes().splitlines(keepends=True)) == {LINE}, path.stat().st_size == taken * 1024
    )
    for _ in range(20):
        sink.write(LINE)
    wait(lambda: bool(sink.fault))
    kept = path.stat().st_size // 1024
    path.unlink()  # Somebody makes room: the sink's descriptor holds the blocks until it opens the file anew.
    wait(lambda: not sink.fault and sink.waiting_bytes == 0)
    lines = path.read_bytes().splitlines(keepends=True)
    print("new file", set(lines) == {LINE}, len(lines) == taken + 20 - kept)
    print("closed", sink.close(timeout_s=30))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
