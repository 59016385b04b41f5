"""A container's share of time counts as well as the machine's processors."""

from __future__ import annotations

import os
from pathlib import Path

from ca.signing.processors import count_processors


def test_the_least_limit_counts_in_both_versions_of_cgroups(tmp_path: Path) -> None:
    here = len(os.sched_getaffinity(0))
    new, old, period = tmp_path / "cpu.max", tmp_path / "cpu.cfs_quota_us", tmp_path / "cpu.cfs_period_us"
    assert count_processors(new, old) == here
    old.write_text("-1\n")
    period.write_text("100000\n")
    assert count_processors(new, old) == here
    old.write_text("50000\n")
    assert count_processors(new, old) == 0.5
    new.write_text("max 100000\n")
    assert count_processors(new, old) == here
    new.write_text("25000 100000\n")
    assert count_processors(new, old) == 0.25
    new.write_text("900000000 100000\n")
    assert count_processors(new, old) == here
