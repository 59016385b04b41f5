"""The commands' page is the commands' own: nothing is missing and nothing is stale."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.text.json_result import list_results
from scripts.pages.commands_page import describe_result, list_commands, main, write_page

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "cli.md"


def test_the_page_in_the_tree_is_what_would_be_written_now() -> None:
    assert PAGE.read_text(encoding="utf-8") == write_page(), "run `make docs`"


def test_every_command_that_prints_json_declares_what() -> None:
    with_json = {name for name, command in list_commands() if any("--json" in each.opts for each in command.params)}
    assert with_json == {name for name, command in list_commands() if list_results(command.callback)}


def test_no_verb_prints_json_that_it_doesn_t_declare() -> None:
    """mypy checks what a declared result prints; ``print_json`` takes anything."""
    for path in (PAGE.parents[2] / "cli" / "commands").glob("*.py"):
        assert "print_json" not in path.read_text(encoding="utf-8"), path


def test_shapes_are_written_from_the_types() -> None:
    commands = dict(list_commands())

    def describe(name: str) -> list[str]:
        verb = commands[name].callback
        return [describe_result(verb, each) for each in list_results(verb)]

    assert describe("version") == ["`{touchmark, python}`"]
    assert describe("ca status") == ["`CAStatus` and `{sidecars}`"]
    assert describe("program list")[0].startswith("a list of `ProgramView`")
    assert describe("ca join-token create") == ["`JoinTokenCreated`", "`--output`: `{token_id, file}`"]
    assert "a check or a blocked switch: `Readiness` or null" in describe("mode")
    assert describe("doctor") == ["`{is_well, findings: [{subject, is_well, observation, hint, is_optional}]}`"]


def test_it_is_written_to_the_named_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "page.md")]) == 0
    assert (tmp_path / "page.md").read_text(encoding="utf-8").startswith("# The command")
    assert main(["a", "b"]) == 2
    assert "usage" in capsys.readouterr().err
