"""Shared options are the same everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.commands.options import complete_context
from cli.main import run


@pytest.mark.parametrize(
    "verb", [["ca", "status"], ["mode"], ["decisions"], ["identities"], ["connections"], ["status"], ["doctor"]]
)
def test_each_verb_has_json_and_the_socket(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--json" in shown
    for option in ("--admin-socket", "--kubernetes", "-k", "--context", "--kubeconfig", "--system-namespace"):
        assert option in shown


def test_contexts_of_several_files_are_completed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("1", "2"):
        (tmp_path / name).write_text("contexts: [{name: same}, {name: other}]")
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / '1'}:{tmp_path / '2'}")
    assert complete_context("s") == ["same"]
    (tmp_path / "2").write_text("contexts: 1")
    assert complete_context("s") == []
