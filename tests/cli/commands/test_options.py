"""Shared options are the same everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cli.backends.target import Target
from cli.commands.options import TargetCommand, complete_context, get_target
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


def test_a_verb_gets_the_value_made_of_the_options() -> None:
    seen: list[tuple[str, Target]] = []
    app = typer.Typer()

    @app.command(cls=TargetCommand)
    def verb(context: typer.Context, name: str) -> None:
        seen.append((name, get_target(context)))

    runner = CliRunner()
    assert runner.invoke(app, ["a", "--context", "dev"]).exit_code == 0
    assert runner.invoke(app, ["b"], env={"TOUCHMARK_KUBERNETES": "1", "KUBECONFIG": "/k"}).exit_code == 0
    assert runner.invoke(app, ["c", "--admin-socket", "/s"], env={"TOUCHMARK_KUBERNETES": "1"}).exit_code == 0
    [(_, typed), (_, from_environment), (_, local)] = seen
    assert (typed.in_cluster, typed.context) == (True, "dev")
    assert (from_environment.in_cluster, from_environment.kubeconfig) == (True, "/k")
    assert local == Target(admin_socket=Path("/s"))


def test_a_verb_registered_without_the_options_is_a_programming_error() -> None:
    app = typer.Typer()

    @app.command()
    def verb(context: typer.Context) -> None:
        get_target(context)

    with pytest.raises(TypeError, match="TargetCommand"):
        CliRunner().invoke(app, [], catch_exceptions=False)
