"""The kernel's accounting, parsed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.accounting import family, parse_cpu_ticks, parse_parent, parse_rss_pages, read_usage
from bench.errors import BenchError

_STAT = "{pid} ({name}) S 1 2 2 0 -1 4194560 900 0 1 0 {user} {system} 7 8 20 0 1 0 100 1000 50 18446744073709551615"


@pytest.mark.parametrize("name", ["envoy", "a b", "x) S 1 (y", "()"])
def test_cpu_and_parent_are_read_whatever_the_name(name: str) -> None:
    stat = _STAT.format(pid=12, name=name, user=30, system=4)
    assert (parse_cpu_ticks(stat), parse_parent(stat)) == (34, 1)


@pytest.mark.parametrize("text", ["", "12 (x", "12 (x) S 1 2"])
def test_another_text_is_no_stat_line(text: str) -> None:
    for parse in (parse_cpu_ticks, parse_parent):
        with pytest.raises(ValueError, match="stat line"):
            parse(text)


def test_resident_pages_are_the_second_field() -> None:
    assert parse_rss_pages("1000 50 20 1 0 30 0\n") == 50
    with pytest.raises(ValueError, match="statm line"):
        parse_rss_pages("1000")


def test_descendants_count() -> None:
    """A child's child burns CPU time, and the eldest's usage grows with it."""
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True)\ntime.sleep(60)"
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"done\n"
            children = family(process.pid)
            assert len(children) == 2
            usage = read_usage([process.pid])
            assert usage.cpu_us >= 250_000
            assert usage.rss_bytes > 2_000_000
        finally:
            for pid in reversed(family(process.pid)):
                os.kill(pid, 9)


def test_a_thread_or_a_stranger_that_ends_meanwhile_ends_no_subject(tmp_path: Path) -> None:
    """stunnel has a thread for each connection: 32 of them end as a load does, in the moment before the next one."""
    for pid, parent in ((7, 1), (8, 7), (9, 8), (10, 1)):
        (tmp_path / str(pid) / "task" / str(pid)).mkdir(parents=True)  # A thread whose files are gone.
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (x) S {parent} " + "0 " * 20)
    (tmp_path / "11").mkdir()  # Was listed, and has ended.
    (tmp_path / "self").mkdir()
    assert family(7, proc=tmp_path) == [7, 8, 9]
    assert sorted(family(7, 8, proc=tmp_path)) == [7, 8, 9], "a child that is named itself counted twice"


def test_an_ended_process_is_an_error() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    time.sleep(0)
    with pytest.raises(BenchError, match="has ended"):
        read_usage([process.pid])
