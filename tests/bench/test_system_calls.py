"""Both sidecars' system calls are made and counted."""

from __future__ import annotations

import pytest

from bench.system_calls import main, measure


def test_each_call_of_both_sides_is_counted_for_each_connection(capsys: pytest.CaptureFixture[str]) -> None:
    timer = measure(3)
    assert len(timer.rounds) == 3
    assert all(set(each) == set(timer.counts) for each in timer.rounds)
    assert timer.counts["client", "accept"] == timer.counts["server", "socket"] == 1
    assert timer.counts["server", "setsockopt"] == 6
    assert main(["--connections", "3"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for _, name in timer.counts)
    assert "3 connections" in printed
