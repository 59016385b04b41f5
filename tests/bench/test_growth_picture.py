"""The picture of growth: matplotlib is only there after `make bench-growth`, and the error says so."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.growth_picture import draw


def test_without_matplotlib_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BenchError) as caught:
        draw([("rules", "µs", [(1, 10.0), (10, 11.0)])], tmp_path / "growth.svg")
    assert "make bench-growth" in caught.value.hint
    assert not (tmp_path / "growth.svg").exists()
