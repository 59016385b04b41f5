"""The line sink: order, bound, a reader that is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from shared.runtime.sinks import LineSink, open_file
from tests.sidecar.little_ca import until

ROOT = Path(__file__).parents[3]


def test_lines_come_out_in_order() -> None:
    reading, writing = os.pipe()
    sink = LineSink(writing)
    for number in range(100):
        assert sink.write(f"{number}\n".encode())
    assert sink.close(timeout_s=60)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        assert file.read().split() == [str(number).encode() for number in range(100)]


def test_a_full_pipe_blocks_no_caller_and_losses_are_counted_urgent_lines_last() -> None:
    reading, writing = os.pipe()
    sink = LineSink(writing, max_bytes=100_000, urgent_max_bytes=200_000)
    line = b"x" * 9_999 + b"\n"
    taken = sum(sink.write(line) for _ in range(50))
    assert 10 <= taken < 50
    assert sink.lost_lines == 50 - taken
    assert sink.write(line, is_urgent=True)
    os.close(reading)
    sink.close(timeout_s=60)
    os.close(writing)


async def test_a_reader_that_is_gone_breaks_the_sink_not_the_process() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    sink = LineSink(writing)
    sink.write(b"a\n")
    await until(lambda: sink.is_broken)
    assert not sink.write(b"b\n")
    assert sink.lost_lines == 2
    sink.close(timeout_s=60)
    os.close(writing)


def test_a_full_disk_is_tried_again_and_no_line_is_torn_or_lost_that_had_room(tmp_path: Path) -> None:
    done = subprocess.run(
        ["unshare", "-Urm", sys.executable, "-m", "tests.shared.runtime.small_disk", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "fault No space left on device",
        "lost True",
        "whole lines True True",
        "new file True True",
        "closed True",
    ], done.stderr


async def test_a_renamed_file_is_opened_anew_when_that_is_asked_for_and_no_line_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "log"
    descriptor = open_file(path)
    sink = LineSink(descriptor, path=path)
    sink.write(b"1\n")
    await until(lambda: sink.waiting_bytes == 0)
    path.rename(tmp_path / "log.1")
    sink.write(b"2\n")
    sink.reopen()
    sink.write(b"3\n")
    assert sink.close(timeout_s=30)
    os.close(descriptor)
    assert (tmp_path / "log.1").read_bytes() == b"1\n2\n"
    assert path.read_bytes() == b"3\n"


async def test_a_file_that_cant_be_opened_anew_is_a_fault_and_the_old_one_is_written_on(tmp_path: Path) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    path = directory / "log"
    descriptor = open_file(path)
    sink = LineSink(descriptor, path=path)
    directory.rename(tmp_path / "elsewhere")
    sink.reopen()
    sink.write(b"1\n")
    await until(lambda: sink.waiting_bytes == 0)
    assert "can't be opened: No such file" in sink.fault
    assert (tmp_path / "elsewhere/log").read_bytes() == b"1\n"
    directory.mkdir()
    sink.reopen()
    sink.write(b"2\n")
    assert sink.close(timeout_s=30)
    os.close(descriptor)
    assert (sink.fault, path.read_bytes()) == ("", b"2\n")


def test_a_pipe_has_nothing_to_be_opened_anew() -> None:
    reading, writing = os.pipe()
    sink = LineSink(writing)
    sink.reopen()
    sink.write(b"1\n")
    assert sink.close(timeout_s=30)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        assert file.read() == b"1\n"


def test_closing_doesnt_wait_for_a_device_that_stays_full() -> None:
    with open("/dev/full", "wb") as full:  # full(4): every write is ENOSPC.
        sink = LineSink(full.fileno())
        sink.write(b"1\n2\n")
        assert not sink.close(timeout_s=30)
        assert sink.lost_lines == 2
