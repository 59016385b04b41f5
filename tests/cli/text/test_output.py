"""Printing: JSON is one line, a piped table keeps whole values."""

from __future__ import annotations

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
