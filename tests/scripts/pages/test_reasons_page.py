"""The page of reasons: complete, and the same as in docs/."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.pages.reasons_page import main, write_page
from shared.model.policy.reasons import EXPLANATIONS, Reason

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "reasons.md"


def test_the_page_in_docs_is_the_generated_one() -> None:
    assert PAGE.read_text(encoding="utf-8") == write_page(), "run `make docs`"


def test_each_reason_has_its_entry_once() -> None:
    page = write_page()
    for reason in Reason:
        assert page.count(f"### `{reason.value}`\n") == 1
        assert EXPLANATIONS[reason].fix in page
    assert page.count("\n## ") == 5


def test_the_command_writes_the_file_that_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "reasons.md")]) == 0
    assert (tmp_path / "reasons.md").read_text(encoding="utf-8") == write_page()
    assert main([]) == 0
    assert capsys.readouterr().out == write_page()
    assert main(["a", "b"]) == 2
