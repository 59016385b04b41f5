"""The container's memory decides how many connections may be open that haven't joined."""

from __future__ import annotations

import os
from pathlib import Path

from ca.runtime.memory_limit import CONNECTION_BYTES, MAX_PLACES, MIN_PLACES, count_places, find_memory_limit

MACHINE_BYTES = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_the_least_limit_counts_and_what_says_none_is_passed_over(tmp_path: Path) -> None:
    first, second = tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes"
    assert find_memory_limit((first, second)) == MACHINE_BYTES
    first.write_text("max\n")
    second.write_text("9223372036854771712\n")
    assert find_memory_limit((first, second)) == MACHINE_BYTES
    first.write_text("536870912\n")
    assert find_memory_limit((first, second)) == 536_870_912


def test_connections_that_havent_joined_take_a_quarter_of_the_memory() -> None:
    assert count_places(512 * 2**20) * CONNECTION_BYTES == 128 * 2**20
    assert (count_places(1), count_places(2**50)) == (MIN_PLACES, MAX_PLACES)
