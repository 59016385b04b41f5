"""Modes, policies and programs are kept by the local CA, or by a cluster's objects."""

from __future__ import annotations

import dataclasses
import getpass

import pytest

from cli.backends.base import ModeState
from cli.backends.session import work_on_policies
from cli.backends.target import Target
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
    assert work_on_policies(Target(admin_socket=ca.socket), lambda backend: backend.get_mode("shop")) == STATE


def test_objects_have_the_shape_of_their_yaml(ca: FakeCA) -> None:
    view = PolicyView(namespace="shop", version=2, mode=Mode.EXPLICIT, group_label="", rules=())
    ca.answers["GET /v1/policies"] = PolicyList(policies=(view,))
    ca.answers["GET /v1/programs"] = ProgramList(programs=())
    [policy] = work_on_policies(Target(admin_socket=ca.socket), lambda backend: backend.list_objects("shop"))
    assert policy["metadata"] == {"name": "default", "namespace": "shop"}


def test_the_user_is_this_one_or_the_one_that_called_sudo(ca: FakeCA, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target(admin_socket=ca.socket)
    monkeypatch.delenv("SUDO_USER", raising=False)
    assert work_on_policies(target, lambda backend: backend.name_user()) == getpass.getuser()
    monkeypatch.setenv("SUDO_USER", "somebody")
    assert work_on_policies(target, lambda backend: backend.name_user()) == "somebody"


def test_a_cluster_needs_a_kubeconfig() -> None:
    with pytest.raises(KubeconfigError):
        work_on_policies(Target(in_cluster=True), lambda backend: backend.get_mode("shop"))
