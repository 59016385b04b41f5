"""The line sink: order, bound, a reader that is gone."""

from __future__ import annotations

import os

from shared.runtime.sinks import LineSink
from tests.sidecar.little_ca import until


def test_lines_come_out_in_order() -> None:
    reading, writing = os.pipe()
    sink = LineSink(writing)
    for number in range(100):
        assert sink.write(f"{number}\n".encode())
    assert sink.close(timeout_s=5)
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
    sink.close(timeout_s=5)
    os.close(writing)


async def test_a_reader_that_is_gone_breaks_the_sink_not_the_process() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    sink = LineSink(writing)
    sink.write(b"a\n")
    await until(lambda: sink.is_broken)
    assert not sink.write(b"b\n")
    assert sink.lost_lines == 2
    sink.close(timeout_s=5)
    os.close(writing)
