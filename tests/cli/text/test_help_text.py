"""The help fits any terminal, its examples can be copied, and they are command lines that exist."""

from __future__ import annotations

import re
import shlex

import pytest

from cli.main import run
from cli.text.help_text import format_help, split_help
from scripts.pages.commands_page import list_commands

DOCSTRING = """Do it.

    A sentence that the
    source breaks.

    Examples: touchmark do it · touchmark do
    it --well
    """


def test_paragraphs_have_no_line_breaks_and_examples_one_each() -> None:
    assert split_help(DOCSTRING) == (
        ["Do it.", "A sentence that the source breaks."],
        ["touchmark do it", "touchmark do it --well"],
    )
    assert format_help(DOCSTRING) == (
        "Do it.\n\nA sentence that the source breaks.\n\n$ touchmark do it\n$ touchmark do it --well"
    )
    assert format_help("Do it.") == "Do it."
    assert format_help("") == ""


def test_a_narrow_terminal_gets_whole_paragraphs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    assert run(["ready", "--help"]) == 0
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    lines = [line.strip() for line in shown.splitlines()]
    start = next(number for number, line in enumerate(lines) if line.startswith("Whatever was seen"))
    paragraph = lines[start : lines.index("", start)]
    assert all(len(line) > 50 for line in paragraph[:-1]), "no line is torn in the middle"
    assert "$ touchmark ready shop --json -k" in lines


def test_every_example_is_a_command_with_options_that_it_has() -> None:
    commands = dict(list_commands())
    for verb in commands.values():
        for example in split_help(verb.help)[1]:
            words = shlex.split(example.partition(" | ")[0].partition(" && ")[0].partition(" > ")[0])
            assert words.pop(0) == "touchmark", example
            names = [" ".join(words[:count]) for count in (3, 2, 1)]
            [command, *_] = [commands[name] for name in (*names, f"{names[1]} create") if name in commands]
            known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
            assert {word for word in words if word.startswith("-") and word != "-"} <= known, example
