"""The table for people."""

from __future__ import annotations

import io

from rich.console import Console

from bench.figures import Metric, Sample, summarise
from bench.table import print_table


def test_every_figure_is_a_row_with_its_ratio() -> None:
    samples = [
        Sample(work="bulk", subject=subject, metric=Metric.RATE, unit="MB/s", value=value)
        for subject, value in (("touchmark", 500), ("envoy", 1000))
    ]
    output = io.StringIO()
    print_table(Console(file=output, width=130), summarise(samples), rounds=3)
    rows = [line.split("│")[1:-1] for line in output.getvalue().splitlines() if "MB/s" in line]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["bulk", "rate", "touchmark", "500", "500", "500", "MB/s", "0.50"],
        ["bulk", "rate", "envoy", "1,000", "1,000", "1,000", "MB/s", "1.00"],
    ]
