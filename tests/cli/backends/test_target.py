"""The command line says where the CA is; what it leaves open, the environment says."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cli.backends.target import Where, choose, list_kubeconfig_files, takes_where
from cli.main import run
from shared.model.errors import InputError

NOTHING = {
    "kubernetes": False,
    "context": "",
    "kubeconfig": "",
    "system_namespace": "touchmark-system",
    "admin_socket": None,
}


def choose_with(*typed: str, **given: object) -> Where:
    return choose(typed=frozenset(typed), **{**NOTHING, **given})  # type: ignore[arg-type]  # Options as they come.


def test_without_any_option_it_is_the_local_socket() -> None:
    assert choose_with() == Where()
    assert choose_with(admin_socket=Path("/s")) == Where(admin_socket=Path("/s"))


@pytest.mark.parametrize("name", ["kubernetes", "context", "kubeconfig", "system_namespace"])
def test_each_of_the_cluster_s_options_means_the_cluster(name: str) -> None:
    assert choose_with(name, **{name: True if name == "kubernetes" else "x"}).in_cluster


def test_a_kubeconfig_in_the_environment_alone_means_nothing() -> None:
    assert not choose_with(kubeconfig="/somewhere").in_cluster


def test_what_is_typed_wins_over_the_environment() -> None:
    assert not choose_with("admin_socket", admin_socket=Path("/s"), kubernetes=True).in_cluster
    assert choose_with("kubernetes", kubernetes=True, admin_socket=Path("/s")).in_cluster
    assert choose_with(kubernetes=True, admin_socket=Path("/s")).in_cluster


def test_both_typed_is_a_mistake() -> None:
    with pytest.raises(InputError, match="exclude each other"):
        choose_with("kubernetes", "admin_socket", kubernetes=True, admin_socket=Path("/s"))


def test_a_verb_gets_the_value_made_of_the_options() -> None:
    seen: list[tuple[str, Where]] = []
    app = typer.Typer()

    @app.command()
    @takes_where
    def verb(name: str, *, where: Where) -> None:
        seen.append((name, where))

    runner = CliRunner()
    assert runner.invoke(app, ["a", "--context", "dev"]).exit_code == 0
    assert runner.invoke(app, ["b"], env={"TOUCHMARK_KUBERNETES": "1", "KUBECONFIG": "/k"}).exit_code == 0
    assert runner.invoke(app, ["c", "--admin-socket", "/s"], env={"TOUCHMARK_KUBERNETES": "1"}).exit_code == 0
    [(_, typed), (_, from_environment), (_, local)] = seen
    assert (typed.in_cluster, typed.context) == (True, "dev")
    assert (from_environment.in_cluster, from_environment.kubeconfig) == (True, "/k")
    assert local == Where(admin_socket=Path("/s"))


def test_the_kubeconfig_is_a_list_of_files_of_which_some_may_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there"
    there.write_text("{}")
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'gone'}:{there}")
    assert list_kubeconfig_files() == [there]
    assert list_kubeconfig_files(str(tmp_path / "gone")) == []
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube" / "config").write_text("{}")
    assert list_kubeconfig_files() == [tmp_path / ".kube" / "config"]


def test_without_a_local_ca_but_with_a_kubeconfig_the_hint_says_k(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    socket = str(tmp_path / "none.sock")
    run(["ca", "status", "--admin-socket", socket])
    assert "-k " not in capsys.readouterr().err
    (tmp_path / "kubeconfig").write_text("{}")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    run(["ca", "status", "--admin-socket", socket])
    assert "hint: -k talks to the CA in the cluster" in capsys.readouterr().err
