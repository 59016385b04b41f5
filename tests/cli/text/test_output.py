"""Printing: JSON is one line, a piped table keeps whole values."""

from __future__ import annotations

import re
import sys

import msgspec
import pytest

from cli.text.output import name_authority, print_error, print_json, print_table, shorten
from shared.model.errors import NotFoundError


def test_json_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [1, 2]})
    assert capsys.readouterr().out == '{"a":[1,2]}\n'


def test_markup_in_a_cell_is_only_text_and_nothing_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("A",), [("[red]" + "x" * 150,)], empty="none")
    assert "[red]" + "x" * 150 in capsys.readouterr().out


def show(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, width: int) -> list[str]:
    """Print a table of four columns to a terminal."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for name, value in (("COLUMNS", str(width)), ("LINES", "40"), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)
    rows = [("2026-11-30 11:45:21Z", "program_not_approved", "-", "/usr/libexec/a/long/path/to/the/program")]
    print_table(("TIME", "REASON", "RULE", "PATH"), rows * 2, empty="none")
    return [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in capsys.readouterr().out.splitlines()]


def test_a_table_that_fits_its_terminal_has_all_its_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = show(monkeypatch, capsys, width=120)
    assert (len(lines), lines[0].split()) == (3, ["TIME", "REASON", "RULE", "PATH"])


def test_a_narrow_terminal_costs_columns_that_say_nothing_then_long_cells_are_folded_and_no_words_torn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = show(monkeypatch, capsys, width=84)
    assert (len(lines), lines[0].split()) == (3, ["TIME", "REASON", "PATH"])
    lines = show(monkeypatch, capsys, width=70)
    assert (len(lines), max(map(len, lines)) <= 70) == (5, True)
    assert lines[1].startswith("2026-11-30 11:45:21Z  program_not_approved  /usr/")


def test_what_a_terminal_is_far_too_narrow_for_runs_on_beyond_its_edge(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = show(monkeypatch, capsys, width=60)
    assert len(lines) == 3
    assert lines[1] == "2026-11-30 11:45:21Z  program_not_approved  /usr/libexec/a/long/path/to/the/program"


def test_an_empty_table_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("A",), [], empty="none")
    assert capsys.readouterr().out == "none\n"


def test_an_error_has_code_message_and_hint(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(NotFoundError("no such", hint="look"), as_json=False)
    assert capsys.readouterr().err == "error[not_found]: no such\n  hint: look\n"
    print_error(NotFoundError("no such", hint="look"), as_json=True)
    assert msgspec.json.decode(capsys.readouterr().err) == {"code": "not_found", "message": "no such", "hint": "look"}


def test_programs_are_shortened_for_tables() -> None:
    assert shorten("") == "-"
    assert shorten(f"sha256:{'ab' * 32}/main:none") == "abababababab/none"


def test_authorities_go_by_their_common_name() -> None:
    assert name_authority("CN=touchmark issuer 1,O=Touchmark") == "touchmark issuer 1"
    assert name_authority("O=Touchmark,CN=touchmark issuer 1") == "touchmark issuer 1"
    assert name_authority("touchmark issuer 1") == "touchmark issuer 1"
    assert name_authority("") == ""
