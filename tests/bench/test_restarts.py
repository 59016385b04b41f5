"""A few sidecars come again at once: each is served, and what it cost is told."""

from __future__ import annotations

from pathlib import Path

from bench.restarts import measure
from bench.subjects.touchmark import run_ca


async def test_all_are_served(tmp_path: Path) -> None:
    with run_ca(tmp_path) as ca:
        figures = await measure(ca, 5)
    assert (figures["sidecars"], figures["served"], figures["never_served"]) == (5, 5, 0)
    assert figures["all_served_s"] >= figures["median_s"] > 0
