"""Both numbers of threads are measured, and compared round by round."""

from __future__ import annotations

import pytest

from bench.workers import main
from sidecar.native.engine import Wanted, choose, current_workers, load


def test_both_numbers_of_threads_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    if load() is None:
        pytest.skip("the native engine isn't built: it takes a C compiler and Python's headers")
    before, workers = choose(Wanted.AUTO), current_workers()
    try:
        assert main(["--rounds", "1", "--streams", "2", "--mib", "1"]) == 0
    finally:
        choose(before)
    assert current_workers() == workers
    printed = capsys.readouterr().out
    for line in ("workers 1: ", "workers 2: ", "2 workers / 1, rate: ", "2 workers / 1, CPU a MiB: "):
        assert line in printed
