"""The bench of holders measures real processes."""

from __future__ import annotations

from pathlib import Path

from bench.holding import measure_pass, measure_workers


async def test_each_worker_is_attested_twice(tmp_path: Path) -> None:
    figures = await measure_workers(workers=3, directory=tmp_path)
    assert set(figures) == {"first_s", "again_s"}
    assert all(each > 0 for each in figures.values())


async def test_passes_are_measured_beside_a_program_with_connections(tmp_path: Path) -> None:
    figures = await measure_pass(held=3, count=2, directory=tmp_path)
    assert figures["median_ms"] > 0
    assert figures["longest_stall_ms"] >= figures["median_stall_ms"]
