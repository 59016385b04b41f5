"""All three ways are measured, and compared round by round."""

from __future__ import annotations

import pytest

from bench.engines import main
from sidecar.native.engine import Wanted, choose, load


def test_all_three_ways_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    if load() is None:
        pytest.skip("the native engine isn't built: it takes a C compiler and Python's headers")
    before = choose(Wanted.AUTO)
    try:
        assert main(["--rounds", "1", "--mib", "1", "--requests", "10"]) == 0
    finally:
        choose(before)
    printed = capsys.readouterr().out
    for line in ("bulk      loop", "bulk      python", "bulk      thread", "requests  thread / loop: "):
        assert line in printed
