"""A few streams are opened and stay open; what they take is told."""

from __future__ import annotations

from pathlib import Path

from bench.streams import measure
from bench.subjects.touchmark import run_ca


async def test_streams_stay_open_and_are_counted(tmp_path: Path) -> None:
    with run_ca(tmp_path) as ca:
        figures = await measure(ca, 5, quiet_s=0.0)
    assert figures["streams"] == 5
    assert figures["ca_rss_mib"] > 10
    assert figures["joined_per_s"] > 0
