"""Modes, policies and programs are kept by the local CA, or by a cluster's objects."""

from __future__ import annotations

import dataclasses
import getpass
from typing import Any

import pytest
import yaml

from cli.backends.base import ModeState
from cli.backends.session import work_on_policies
from cli.backends.target import Target
from cli.cluster.faults import KubeconfigError
from shared.model.policy.documents import MeshPolicyDocument, parse_documents
from shared.model.policy.modes import make_modes
from shared.model.policy.rules import Mode, NamespaceState, WorkloadMode
from shared.model.wire.admin import Acknowledgements, History, ModeTrial, PolicyList, PolicyView, ProgramList
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


def apply(ca: FakeCA, document: MeshPolicyDocument) -> tuple[dict[str, Any], str]:
    """Return what the CA was sent, and what is said of it."""
    [applied] = work_on_policies(Target(admin_socket=ca.socket), lambda backend: backend.apply([document]))
    return ca.asked("PUT /v1/policies")[-1], applied.note


def answer_trial(ca: FakeCA, trial: ModeTrial | None, workload_modes: tuple[WorkloadMode, ...] = ()) -> None:
    view = PolicyView(
        namespace="shop", version=2, mode=Mode.EXPLICIT, group_label="", rules=(), workload_modes=workload_modes
    )
    ca.answers["GET /v1/policies"] = PolicyList(policies=(view,))
    ca.answers["PUT /v1/policies"] = view
    ca.answers["GET /v1/programs"] = ProgramList(programs=())
    ca.answers["GET /v1/namespaces/shop/history"] = History(namespace="shop", generations=(), trial=trial)


def test_a_mode_on_trial_is_shown_as_it_goes_back_and_stays_on_trial_when_that_is_applied(ca: FakeCA) -> None:
    answer_trial(ca, ModeTrial(mode=Mode.EXPLICIT, back_to=Mode.PERMISSIVE, started=0.0, until=4e9))
    [policy] = work_on_policies(Target(admin_socket=ca.socket), lambda backend: backend.list_objects("shop"))
    assert policy["spec"] == {"mode": "permissive"}
    said = "explicit until 2096-10-02T07:06:40Z, then permissive"
    assert policy["metadata"]["annotations"] == {"touchmark.dev/trial": said}
    [document] = parse_documents(yaml.safe_dump(policy))
    assert isinstance(document, MeshPolicyDocument)
    sent, note = apply(ca, document)
    assert (sent.get("mode"), note) == (None, f"left on trial: {said}")
    sent, note = apply(ca, MeshPolicyDocument(namespace="shop", mode=Mode.EXPLICIT))
    assert (sent["mode"], note) == ("explicit", f"ended a trial: {said}")
    sent, note = apply(ca, MeshPolicyDocument(namespace="shop"))
    assert (sent.get("mode"), note) == (None, "")
    answer_trial(ca, None)
    sent, note = apply(ca, MeshPolicyDocument(namespace="shop", mode=Mode.PERMISSIVE))
    assert (sent["mode"], note) == ("permissive", "")


def test_workloads_modes_on_trial_are_shown_as_they_go_back_and_stay_on_trial(ca: FakeCA) -> None:
    before, tried = make_modes({"db": Mode.EXPLICIT}), make_modes({"db": Mode.PERMISSIVE, "web": Mode.PERMISSIVE})
    trial = ModeTrial(mode=Mode.EXPLICIT, back_to=Mode.EXPLICIT, started=0.0, until=4e9, workload_modes=before)
    answer_trial(ca, trial, workload_modes=tried)
    [policy] = work_on_policies(Target(admin_socket=ca.socket), lambda backend: backend.list_objects("shop"))
    assert policy["spec"] == {"mode": "explicit", "workloadModes": {"db": "explicit"}}
    sent, note = apply(ca, MeshPolicyDocument(namespace="shop", mode=Mode.EXPLICIT, workload_modes=before))
    assert (sent["mode"], sent.get("workload_modes")) == ("explicit", None)
    assert note.startswith("left on trial: modes of workloads until 2096")
    sent, note = apply(ca, MeshPolicyDocument(namespace="shop", workload_modes=tried))
    assert sent["workload_modes"]
    assert note.startswith("ended a trial")


def test_while_workloads_modes_are_on_trial_their_namespaces_mode_is_shown_as_it_is(ca: FakeCA) -> None:
    """It may have changed since the trial began, which ends nothing: the older mode would come back when applied."""
    modes = make_modes({"db": Mode.PERMISSIVE})
    trial = ModeTrial(mode=Mode.PERMISSIVE, back_to=Mode.PERMISSIVE, started=0.0, until=4e9, workload_modes=())
    answer_trial(ca, trial, workload_modes=modes)
    [policy] = work_on_policies(Target(admin_socket=ca.socket), lambda backend: backend.list_objects("shop"))
    assert policy["spec"] == {"mode": "explicit"}


def test_the_user_is_this_one_or_the_one_that_called_sudo(ca: FakeCA, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target(admin_socket=ca.socket)
    monkeypatch.delenv("SUDO_USER", raising=False)
    assert work_on_policies(target, lambda backend: backend.name_user()) == getpass.getuser()
    monkeypatch.setenv("SUDO_USER", "somebody")
    assert work_on_policies(target, lambda backend: backend.name_user()) == "somebody"


def test_a_cluster_needs_a_kubeconfig() -> None:
    with pytest.raises(KubeconfigError):
        work_on_policies(Target(in_cluster=True), lambda backend: backend.get_mode("shop"))
