"""A report between a page's marks."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.page import Page


def test_only_what_stands_between_the_marks_changes(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text("before\n<!-- x: begin -->old<!-- x: end -->\nafter\n")
    page = Page(path=file, name="x")
    page.put("first\n")
    page.put("second\n")
    assert file.read_text() == "before\n<!-- x: begin -->\n\nsecond\n\n<!-- x: end -->\nafter\n"


def test_a_page_without_these_marks_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    with pytest.raises(BenchError, match="can't read"):
        Page(path=file, name="x").put("text")
    file.write_text("<!-- y: begin --><!-- y: end -->")
    with pytest.raises(BenchError, match="has no marks"):
        Page(path=file, name="x").put("text")
