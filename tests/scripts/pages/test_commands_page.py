"""The commands' page is the commands' own: nothing is missing and nothing is stale."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.pages.commands_page import JSON_SHAPES, list_commands, main, write_page

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "cli.md"


def test_the_page_in_the_tree_is_what_would_be_written_now() -> None:
    assert PAGE.read_text(encoding="utf-8") == write_page(), "run `make docs`"


def test_every_command_that_prints_json_has_its_shape_there() -> None:
    with_json = {name for name, command in list_commands() if any("--json" in each.opts for each in command.params)}
    assert with_json == set(JSON_SHAPES)


def test_it_is_written_to_the_named_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "page.md")]) == 0
    assert (tmp_path / "page.md").read_text(encoding="utf-8").startswith("# The command")
    assert main(["a", "b"]) == 2
    assert "usage" in capsys.readouterr().err
