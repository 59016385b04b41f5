"""Shared options are the same everywhere."""

from __future__ import annotations

import pytest

from cli.main import run


@pytest.mark.parametrize(
    "verb", [["ca", "status"], ["mode"], ["decisions"], ["identities"], ["connections"], ["doctor"]]
)
def test_each_verb_has_json_and_the_socket(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--json" in shown
    assert "--admin-socket" in shown
