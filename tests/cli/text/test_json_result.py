"""A declared result is printed as one line of JSON, and found on its verb."""

from __future__ import annotations

import pytest

from cli.text.json_result import JsonResult, list_results, prints

_NUMBERS: JsonResult[list[int]] = JsonResult(note="sorted")


@prints(_NUMBERS)
def verb() -> None:
    _NUMBERS.print([1, 2])


def test_a_verb_s_results_are_found_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert list_results(verb) == (_NUMBERS,)
    assert list_results(print) == ()
    verb()
    assert capsys.readouterr().out == "[1,2]\n"
