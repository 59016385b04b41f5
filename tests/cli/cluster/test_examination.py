"""What is wrong with an installation is found, one thing at a time; a failed request is reported as such."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cli.cluster.ca_rights import RIGHTS
from cli.cluster.examination import examine_cluster, examine_version, read_pins
from cli.cluster.snapshot import ClusterSnapshot
from cli.text.findings import Finding
from shared.model.errors import TouchmarkError
from shared.model.version import VERSION
from shared.model.wire.admin import PodView
from tests.cli.cluster.snapshots import (
    BUNDLE,
    ERROR,
    PIN,
    SNAPSHOT,
    change,
    make_admission_policy,
    make_binding,
    make_definition,
    make_webhook,
)
from tests.cli.fake_api import make_pod
from tests.cli.observations import OBSERVATION, change_cluster

NEWER = {"spec": {"versions": [{"name": "v1", "served": True}]}}
HALF = {**make_definition("x"), "status": {}}
TOKENS = "touchmark-token-requests"
FAILED_CALL = TouchmarkError('failed calling webhook "pods": connection refused')
DENIED = TouchmarkError("refused: create pods: admission webhook denied the request: pod_security: baseline")


def find_faults(snapshot: ClusterSnapshot) -> list[Finding]:
    return [finding for finding in examine_cluster(snapshot, own_version=VERSION) if not finding.is_well]


def test_nothing_is_wrong_where_nothing_is() -> None:
    assert find_faults(SNAPSHOT) == []
    subjects = [finding.subject for finding in examine_cluster(SNAPSHOT, own_version=VERSION)]
    assert subjects[:4] == ["API server", "clocks of this machine and the API server",
                            "clocks of this machine and the CA", "resources"]  # fmt: skip
    assert len(subjects) == len(set(subjects))


@pytest.mark.parametrize(
    ("subject", "part", "changes"),
    [
        ("resources", "x isn't installed", {"definitions": {"x": None}}),
        ("resources", "x isn't served as v1alpha1, only as v1", {"definitions": {"x": NEWER}}),
        ("resources", "x isn't established", {"definitions": {"x": HALF}}),
        ("webhook configuration", "doesn't exist: no pod is injected", {"webhook": None}),
        ("webhook configuration", "contains no webhook", {"webhook": {"webhooks": []}}),
        ("webhook configuration", "no caBundle yet", {"webhook": make_webhook(clientConfig={})}),
        ("webhook configuration", "isn't the CA's current root", {"observed": OBSERVATION}),
        ("webhook configuration", "doesn't fail closed", {"webhook": make_webhook(failurePolicy="Ignore")}),
        ("CA's pods", "none in touchmark-system", {"ca_pods": []}),
        ("CA's pods", "0 of 1 ready", {"ca_pods": [make_pod("ca-0", ready=False)]}),
        ("CA's permissions", "missing: get pods", {"missing_rights": [RIGHTS[0]]}),
        ("admission policies", "touchmark-token-requests is missing", {"admission_policies": {TOKENS: (None, None)}}),
        (
            "admission policies",
            "touchmark-token-requests has no binding",
            {"admission_policies": {TOKENS: (make_admission_policy(), None)}},
        ),
        (
            "admission policies",
            "doesn't fail closed",
            {"admission_policies": {TOKENS: (make_admission_policy(failurePolicy="Ignore"), make_binding())}},
        ),
        (
            "admission policies",
            "bound without Deny",
            {"admission_policies": {TOKENS: (make_admission_policy(), make_binding("Audit"))}},
        ),
        ("webhook", "got no sidecar", {"trial": False}),
        ("webhook", "the API server can't reach it: failed calling webhook", {"trial": FAILED_CALL}),
        ("clocks of this machine and the API server", "60 s apart", {"api_skew_s": 60.0}),
        ("clocks of this machine and the CA", "60 s apart", {"ca_skew_s": -60.0}),
        ("CA's status", "unknown: may not be asked", {"observed": ERROR}),
        ("CA's pods", "unknown: may not be asked", {"ca_pods": ERROR}),
    ],
)
def test_each_fault_is_found_alone_with_a_hint(subject: str, part: str, changes: dict[str, Any]) -> None:
    [finding] = find_faults(change(**changes))
    assert finding.subject == subject
    assert part in finding.observation
    assert finding.hint
    assert not finding.is_optional


@pytest.mark.parametrize(
    "field", ["definitions", "webhook", "admission_policies", "missing_rights", "trial", "network_policies"]
)
def test_what_may_not_be_asked_is_unknown_and_no_fault(field: str) -> None:
    [finding] = find_faults(change(**{field: ERROR}))
    assert finding.is_optional
    assert finding.observation == "unknown: may not be asked"
    assert finding.hint == "ask for the right"


def test_where_nothing_is_installed_nothing_else_is_said() -> None:
    nothing: dict[str, Any] = {"definitions": {"x": None}, "webhook": None, "ca_pods": []}
    [finding] = find_faults(change(**nothing, observed=ERROR, admission_policies={TOKENS: (None, None)}))
    assert (finding.subject, finding.observation, finding.is_optional) == ("installation", "there is none", False)
    assert "`touchmark install`" in finding.hint
    for part in nothing:
        assert len(find_faults(change(**{**nothing, part: ERROR}))) > 1, "what can't be asked may be there"


def test_an_explicit_mode_that_no_object_says_is_named() -> None:
    """A MeshPolicy that is deleted leaves it in force, as does a namespace that is deleted and made again."""
    (finding,) = find_faults(change(saying=frozenset({"bank"})))
    assert (finding.subject, finding.is_optional) == ("modes", True)
    assert "explicit, though no MeshPolicy says so: shop" in finding.observation
    assert "`touchmark mode shop explicit -k`" in finding.hint
    assert find_faults(change(saying=ERROR)) == [], "what can't be asked isn't judged by"


def test_a_replica_that_isn_t_ready_is_told_but_no_fault() -> None:
    pods = [make_pod("ca-0"), make_pod("ca-1", ready=False)]
    [finding] = find_faults(change(ca_pods=pods))
    assert finding.is_optional
    assert "1 of 2 ready in touchmark-system; ca-1: Running, not ready" in finding.observation


def test_a_webhook_that_refuses_the_trial_is_reached() -> None:
    assert find_faults(change(trial=DENIED)) == []


def test_the_ca_s_view_of_missing_sidecars_stands_in_where_pods_may_not_be_listed() -> None:
    pod = PodView(namespace="shop", name="old-1", service_account="web")
    observed = replace(SNAPSHOT.observed, cluster=change_cluster(not_injected=(pod,)))  # type: ignore[type-var]
    assert find_faults(change(observed=observed)) == []
    faults = find_faults(change(observed=observed, pods=ERROR))
    assert "injection" in [finding.subject for finding in faults]


def test_pins_are_read_from_a_bundle_and_nonsense_has_none() -> None:
    assert read_pins(BUNDLE) == {PIN}
    assert read_pins("") == read_pins("bm8gUEVN") == read_pins("!") == frozenset()


@pytest.mark.parametrize(
    ("version", "is_well"),
    [
        ("v1.30.0", True),
        ("v1.36.2+k3s1", True),
        ("v2.0.0", True),
        ("v1.29.15", False),
        ("v1.9.1-gke.3", False),
        ("", True),
    ],
)
def test_an_api_server_that_is_too_old_is_said_first(version: str, is_well: bool) -> None:
    finding = examine_version(version)
    assert finding.is_well is is_well
    assert is_well or (finding.subject, "older than 1.30" in finding.observation) == ("API server", True)
