"""The pages' tables of settings are the settings' own: nothing is missing and nothing is stale."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.pages.settings_page import BEGIN, END, TABLES, fill_page, main, write_table
from shared.runtime.settings import Setting

REFERENCE = Path(__file__).parents[3] / "docs" / "reference"


@pytest.mark.parametrize("name", TABLES)
def test_the_page_in_the_tree_is_what_would_be_written_now(name: str) -> None:
    page = (REFERENCE / name).read_text(encoding="utf-8")
    assert page == fill_page(page, TABLES[name]), "run `make docs`"


def test_a_column_without_cells_is_left_out_and_bars_are_escaped() -> None:
    settings = (
        Setting(name="level", options=("--level", "-l"), choices=("low", "high"), default="low", help="how loud"),
        Setting(name="names", options=("--name",), metavar="NAME", repeatable=True, help="further names"),
    )
    assert write_table(settings).splitlines() == [
        "| Option | Default | Meaning |",
        "| --- | --- | --- |",
        "| `--level low\\|high`, `-l` | low | how loud |",
        "| `--name NAME` |  | further names (repeatable) |",
    ]


def test_what_is_outside_the_markers_stays() -> None:
    settings = (Setting(name="x", help="y", yaml="x"),)
    once = fill_page(f"before\n{BEGIN}old\n{END}after\n", settings)
    assert once.startswith(f"before\n{BEGIN}") and once.endswith(f"{END}after\n") and "old" not in once
    assert fill_page(once, settings) == once
    with pytest.raises(ValueError, match="markers"):
        fill_page("before\n", settings)


def test_it_is_written_to_the_named_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in TABLES:
        (tmp_path / name).write_text(BEGIN + END, encoding="utf-8")
    assert main([str(tmp_path)]) == 0
    assert all("| Option |" in (tmp_path / name).read_text(encoding="utf-8") for name in TABLES)
    assert main([]) == 2
    assert "usage" in capsys.readouterr().err
