"""The command line says where the CA is; the environment says it where the command line doesn't."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.backends.target import Target, add_options, choose_target, complete_commands, write_options
from shared.model.errors import InputError

NOTHING = {
    "kubernetes": False,
    "context": "",
    "kubeconfig": "",
    "system_namespace": "touchmark-system",
    "admin_socket": None,
}


def choose_with(*typed: str, **given: object) -> Target:
    return choose_target(typed=frozenset(typed), **{**NOTHING, **given})  # type: ignore[arg-type]  # Options as they come.


def test_without_any_option_it_is_the_local_socket() -> None:
    assert choose_with() == Target()
    assert choose_with(admin_socket=Path("/s")) == Target(admin_socket=Path("/s"))


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
    with pytest.raises(InputError, match="can't be combined"):
        choose_with("kubernetes", "admin_socket", kubernetes=True, admin_socket=Path("/s"))


def test_a_shown_command_reaches_the_same_ca() -> None:
    assert write_options(Target()) == ""
    assert write_options(Target(admin_socket=Path("/run/my ca/admin.sock"))) == "--admin-socket '/run/my ca/admin.sock'"
    assert write_options(Target(in_cluster=True)) == "-k"
    prod = Target(in_cluster=True, context="prod; rm", kubeconfig="/etc/kube", system_namespace="mesh")
    assert write_options(prod) == "-k --context 'prod; rm' --kubeconfig /etc/kube --system-namespace mesh"


def test_a_command_and_those_in_a_text_of_the_ca_get_what_they_need() -> None:
    assert add_options("touchmark mode shop confirm", "-k") == "touchmark mode shop confirm -k"
    assert add_options("touchmark mode shop confirm", "") == "touchmark mode shop confirm"
    text = "see `touchmark program queue` and `README`, or `touchmark audit`"
    assert complete_commands(text, r"--admin-socket '/a\1'") == (
        r"see `touchmark program queue --admin-socket '/a\1'` and `README`, or `touchmark audit --admin-socket '/a\1'`"
    )
    assert complete_commands(text, "") == text
