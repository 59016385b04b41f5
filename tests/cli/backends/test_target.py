"""The command line says where the CA is; the environment says it where the command line doesn't."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.backends.target import Target, choose_target, write_options
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
