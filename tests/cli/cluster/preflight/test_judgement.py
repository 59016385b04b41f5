"""What an installation would fail by is said before it, each with what to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.cluster.preflight.judgement import API_SERVER_PORTS, judge
from cli.cluster.preflight.questions import INSTALLED, Answers, find_namespace
from cli.text.findings import Finding
from shared.model.errors import UnavailableError
from tests.cli.cluster.snapshots import make_namespace

MANIFESTS = Path(__file__).parents[4] / "manifests"
INJECT = {"touchmark.dev/inject": "true"}
DEFAULT = {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}


def node(**info: str) -> dict[str, Any]:
    known = {"operatingSystem": "linux", "kernelVersion": "6.1.0", "kubeletVersion": "v1.34.4"}
    return {"metadata": {"name": "n-1"}, "nodeInfo": {**known, **info}}


def deployment(image: str) -> dict[str, Any]:
    return {"spec": {"template": {"spec": {"containers": [{"name": "ca", "image": image}]}}}}


def webhook(namespace: str = "touchmark-system") -> dict[str, Any]:
    return {"webhooks": [{"clientConfig": {"service": {"namespace": namespace}}}]}


ANSWERS = Answers(
    namespace="touchmark-system",
    version="v1.34.4",
    admission=["mutatingwebhookconfigurations", "validatingadmissionpolicies", "validatingadmissionpolicybindings"],
    missing_rights=[],
    webhook=None,
    deployment=None,
    namespaces=[make_namespace("shop", **INJECT)],
    limit_ranges=[],
    quotas=[],
    priority_classes=[{"metadata": {"name": "system-cluster-critical"}}],
    storage_classes=[{"metadata": {"name": "local", **DEFAULT}}],
    nodes=[node()],
    slices=[{"ports": [{"port": 6443}]}],
)
TIGHT = {
    "metadata": {"name": "l", "namespace": "shop"},
    "spec": {"limits": [{"type": "Container", "max": {"memory": "64Mi"}}]},
}
FULL = {
    "metadata": {"name": "q", "namespace": "touchmark-system"},
    "spec": {"hard": {"pods": "1"}},
    "status": {"used": {"pods": "1"}},
}


def find_faults(**changes: Any) -> list[Finding]:
    return [each for each in judge(replace(ANSWERS, **changes), own_version="0.2.0") if not each.is_well]


def test_nothing_is_wrong_where_nothing_is() -> None:
    assert find_faults() == []
    assert judge(ANSWERS, own_version="0.2.0")[0].subject == "API server", "the version comes first"


@pytest.mark.parametrize(
    ("changes", "subject", "said"),
    [
        ({"version": "v1.29.9"}, "API server", "older than 1.30"),
        ({"admission": ["mutatingwebhookconfigurations"]}, "admission API", "lacks validatingadmissionpolicies"),
        ({"missing_rights": ["create namespaces"]}, "your permissions", "create namespaces"),
        ({"webhook": webhook("mesh")}, "existing installation", "in the namespace mesh"),
        ({"webhook": webhook()}, "existing installation", "no CA that would answer"),
        ({"deployment": deployment("a/ca:0.3.1")}, "existing installation", "newer than 0.2.0"),
        ({"deployment": deployment("a/ca:0.0.9")}, "existing installation", "0.2.0 would be an upgrade"),
        (
            {"namespaces": [{"metadata": {"name": "touchmark-system", "deletionTimestamp": "x"}}]},
            "namespace touchmark-system",
            "is being deleted",
        ),
        ({"limit_ranges": [TIGHT]}, "limits and quotas", "shop wouldn't admit a sidecar: a LimitRange allows 64Mi"),
        (
            {"namespaces": [make_namespace("shop", **INJECT, **{"pod-security.kubernetes.io/enforce": "baseline"})]},
            "Pod Security",
            "shop enforces baseline",
        ),
        ({"storage_classes": []}, "storage class", "would stay pending"),
        (
            {"quotas": [FULL]},
            "limits and quotas",
            "touchmark-system wouldn't admit the CA: the quota q has 1 of 1 pods",
        ),
        ({"nodes": [node(operatingSystem="windows")]}, "nodes", "none with Linux"),
        ({"slices": [{"ports": [{"port": 8443}]}]}, "API server's port", "8443"),
    ],
)
def test_each_fault_is_found_alone_with_a_hint(changes: dict[str, Any], subject: str, said: str) -> None:
    [finding] = find_faults(**changes)
    assert (finding.subject, finding.is_optional) == (subject, False)
    assert said in finding.observation
    assert finding.hint


@pytest.mark.parametrize(
    ("changes", "subject"),
    [
        ({"priority_classes": []}, "priority class"),
        ({"storage_classes": [], "deployment": deployment("a/ca:0.2.0")}, "storage class"),
        ({"nodes": [node(kernelVersion="4.19.0")]}, "nodes"),
        ({"deployment": deployment("a/ca@sha256:0")}, "existing installation"),
        ({"quotas": UnavailableError("no")}, "limits and quotas"),
        ({"nodes": UnavailableError("no")}, "nodes"),
    ],
)
def test_what_isnt_known_or_only_narrows_doesnt_forbid_an_installation(changes: dict[str, Any], subject: str) -> None:
    [finding] = find_faults(**changes)
    assert (finding.subject, finding.is_optional) == (subject, True)


def test_what_is_installed_or_needs_no_volume_isnt_asked_for_room_for_one() -> None:
    quotas = [{**FULL, "spec": {"hard": {"persistentvolumeclaims": "0"}}}]
    assert [each.subject for each in find_faults(quotas=quotas)] == ["limits and quotas"]
    assert find_faults(quotas=[*quotas, FULL], deployment=deployment("a/ca:0.2.0")) == []
    found = judge(replace(ANSWERS, quotas=quotas, storage_classes=[]), own_version="0.2.0", with_volume=False)
    assert [(each.subject, each.is_optional) for each in found if not each.is_well] == [("storage class", True)]


def test_a_storage_class_that_was_named_has_to_be_there() -> None:
    for name, is_well in (("local", True), ("fast", False)):
        findings = judge(ANSWERS, own_version="0.2.0", with_volume=False, storage_class=name)
        [finding] = [each for each in findings if each.subject == "storage class"]
        assert (finding.is_well, finding.is_optional) == (is_well, False)
    assert "there is no fast: the CA's volume would stay pending" in finding.observation
    assert finding.hint.startswith("there is local; --force goes on")


def test_the_older_annotation_makes_a_default_class_too() -> None:
    beta = {"storageclass.beta.kubernetes.io/is-default-class": "true"}
    assert find_faults(storage_classes=[{"metadata": {"name": "local", "annotations": beta}}]) == []


@pytest.mark.parametrize("image", ["a/ca:0.2.0", "a/ca:0.1.3"])
def test_the_same_release_and_the_one_before_can_be_upgraded(image: str) -> None:
    assert find_faults(webhook=webhook(), deployment=deployment(image)) == []
    assert find_namespace(webhook("mesh")) == "mesh"
    assert find_namespace({}) == ""


def test_every_kind_that_the_manifests_hold_is_asked_about() -> None:
    """And the ports are those that the NetworkPolicy lets out."""
    folders = ("base", "crds", "overlays/single", "overlays/ha")
    documents = [
        document
        for folder in folders
        for path in (MANIFESTS / folder).glob("*.yaml")
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
        if document["kind"] != "Kustomization"
    ]
    kinds = {document["kind"].lower() for document in documents} | {"configmap"}
    assert kinds == {plural.removesuffix("s").replace("policie", "policy") for _, plural, _ in INSTALLED}
    text = (MANIFESTS / "base/network-policy.yaml").read_text(encoding="utf-8")
    policy = next(each for each in yaml.safe_load_all(text) if each["metadata"]["name"] == "touchmark-ca")
    ports = {each["port"] for each in policy["spec"]["egress"][0]["ports"]}
    assert ports == {53, *API_SERVER_PORTS}
