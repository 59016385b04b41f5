"""The edges' bench takes records in and gets a day's edges out."""

from __future__ import annotations

import pytest

from bench import edges


async def test_it_measures_what_comes_in_and_what_goes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edges, "WORKLOADS", 12)
    figures = await edges.run(batches=1, rounds=1)
    assert figures["out"]["edges"] == 12 * 10
    assert figures["out"]["p50_ms"] > 0
    assert figures["in"]["records_per_s"] > 0
