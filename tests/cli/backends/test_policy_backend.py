"""Modes, policies and programs are kept by the local CA, or by a cluster's objects."""

from __future__ import annotations

import dataclasses
import getpass

import pytest

from cli.backends.policy_backend import ModeState, govern
from cli.backends.target import Where
from cli.cluster.faults import KubeconfigError
from shared.model.policy.rules import Mode, NamespaceState
from shared.model.wire.admin import Acknowledgements, PolicyList, PolicyView, ProgramList
from tests.cli.fake_ca import FakeCA

STATE = ModeState(
    namespace="shop", wanted=Mode.EXPLICIT, mode=Mode.EXPLICIT, version=3, installed=2, total=2, waiting=()
)


def test_a_mode_is_complete_when_it_is_seen_accepted_and_installed_everywhere() -> None:
    assert STATE.is_complete
    for change in ({"is_observed": False}, {"fault": "no"}, {"waiting": ("a",)}, {"total": 3}):
        assert not dataclasses.replace(STATE, **change).is_complete


def test_the_local_ca_s_mode_is_read_with_its_acknowledgements(ca: FakeCA) -> None:
    ca.answers["GET /v1/namespaces/shop"] = NamespaceState(namespace="shop", version=3, mode=Mode.EXPLICIT)
    ca.answers["GET /v1/namespaces/shop/acknowledgements"] = Acknowledgements(
        namespace="shop", version=3, installed=2, total=2, waiting=()
    )
    assert govern(Where(admin_socket=ca.socket), lambda governor: governor.get_mode("shop")) == STATE


def test_objects_have_the_shape_of_their_yaml(ca: FakeCA) -> None:
    view = PolicyView(namespace="shop", version=2, mode=Mode.EXPLICIT, group_label="", rules=())
    ca.answers["GET /v1/policies"] = PolicyList(policies=(view,))
    ca.answers["GET /v1/programs"] = ProgramList(programs=())
    [policy] = govern(Where(admin_socket=ca.socket), lambda governor: governor.list_objects("shop"))
    assert policy["metadata"] == {"name": "default", "namespace": "shop"}


def test_the_user_is_this_one_or_whoever_became_it_by_sudo(ca: FakeCA, monkeypatch: pytest.MonkeyPatch) -> None:
    where = Where(admin_socket=ca.socket)
    monkeypatch.delenv("SUDO_USER", raising=False)
    assert govern(where, lambda governor: governor.name_user()) == getpass.getuser()
    monkeypatch.setenv("SUDO_USER", "somebody")
    assert govern(where, lambda governor: governor.name_user()) == "somebody"


def test_a_cluster_needs_a_kubeconfig() -> None:
    with pytest.raises(KubeconfigError):
        govern(Where(in_cluster=True), lambda governor: governor.get_mode("shop"))
