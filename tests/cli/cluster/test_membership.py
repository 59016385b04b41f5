"""What keeps pods out of the mesh or from each other is found and explained."""

from __future__ import annotations

from typing import Any

import pytest

from cli.cluster.membership import describe_unknown, examine_membership, list_images
from cli.cluster.snapshot import ClusterSnapshot
from cli.text.findings import Finding
from tests.cli.cluster.snapshots import ERROR, SIDECAR, SNAPSHOT, change, make_meshed_pod, make_namespace, make_policy
from tests.cli.fake_api import make_pod

INJECT = {"touchmark.dev/inject": "true"}
BASELINE = {"pod-security.kubernetes.io/enforce": "baseline"}
ASKING = make_pod("old-1", namespace="bank", metadata={"annotations": INJECT})
PORTS = [{"protocol": "TCP", "port": 8080}]


def find_faults(snapshot: ClusterSnapshot) -> list[Finding]:
    return [finding for finding in examine_membership(snapshot) if not finding.is_well]


def test_nothing_is_wrong_where_nothing_is() -> None:
    assert find_faults(SNAPSHOT) == []


def test_a_pod_security_level_that_forbids_injection_is_named() -> None:
    labelled = [make_namespace("shop", **INJECT, **BASELINE), make_namespace("idle", **BASELINE)]
    [finding] = find_faults(change(namespaces=labelled))
    assert finding.observation == "forbids injection: shop enforces baseline"
    assert "enforce=privileged" in finding.hint


def test_a_level_matters_where_a_pod_asks_too() -> None:
    namespaces = [make_namespace("bank", **BASELINE)]
    faults = find_faults(change(namespaces=namespaces, pods=[ASKING]))
    assert [finding.subject for finding in faults] == ["Pod Security", "injection"]


@pytest.mark.parametrize(
    ("pod", "is_missed"),
    [
        (ASKING, True),
        (make_pod("plain", namespace="bank"), False),
        (make_pod("plain", namespace="shop"), True),
        (make_pod("own-word", namespace="shop", metadata={"annotations": {"touchmark.dev/inject": "false"}}), False),
        (make_pod("exporter", namespace="shop", spec={"hostNetwork": True}), False),
        (make_pod("agent", namespace="bank", metadata={"annotations": INJECT}, spec={"hostPID": True}), True),
        (make_pod("done", namespace="shop", status={"phase": "Succeeded"}), False),
        (make_pod("ours", namespace="touchmark-system", metadata={"annotations": INJECT}), False),
        (make_pod("system", namespace="kube-system", metadata={"annotations": INJECT}), False),
    ],
    ids=lambda value: value["metadata"]["name"] if isinstance(value, dict) else "",
)
def test_who_asked_and_has_no_sidecar_is_named(pod: dict[str, Any], is_missed: bool) -> None:
    pods = [make_meshed_pod("web-1"), pod]
    faults = find_faults(change(pods=pods))
    assert ["injection"] * is_missed == [finding.subject for finding in faults]


def test_a_namespace_that_asks_by_another_word_or_by_an_annotation_is_named() -> None:
    odd = make_namespace("shop", **{"touchmark.dev/inject": "enabled"})
    annotated = make_namespace("bank")
    annotated["metadata"]["annotations"] = INJECT
    both = make_namespace("idle", **{"touchmark.dev/inject": "false"})
    both["metadata"]["annotations"] = INJECT
    system = make_namespace("kube-system", **{"touchmark.dev/inject": "enabled"})
    [finding] = find_faults(change(namespaces=[odd, annotated, both, system]))
    assert (finding.subject, finding.is_optional) == ("injection requests", False)
    assert "neither true nor false: shop ('enabled')" in finding.observation
    assert "instead of a label: bank" in finding.observation
    assert "idle" not in finding.observation and "kube-system" not in finding.observation
    assert "kubectl label namespace NAMESPACE --overwrite touchmark.dev/inject=true" in finding.hint


def test_a_namespaces_default_that_cannot_be_used_is_named() -> None:
    shop, bank = make_namespace("shop"), make_namespace("bank")
    shop["metadata"]["annotations"] = {"touchmark.dev/log-level": "loud", "touchmark.dev/sidecar-cpu": "1"}
    bank["metadata"]["annotations"] = {"touchmark.dev/drain-seconds": "5"}
    [finding] = find_faults(change(namespaces=[shop, bank]))
    assert (finding.subject, finding.is_optional) == ("defaults of namespaces", False)
    assert finding.observation.startswith("not applied: shop: bad_annotation:")
    assert "bank" not in finding.observation
    assert find_faults(change(namespaces=[bank])) == []


@pytest.mark.parametrize(
    ("metadata", "is_meshed", "is_named"),
    [
        ({"labels": INJECT}, False, True),
        ({"labels": {"touchmark.dev/inject": "yes"}}, False, True),
        ({"labels": {"touchmark.dev/inject": "false"}}, True, True),
        ({"labels": INJECT}, True, False),
        ({"labels": {"touchmark.dev/inject": "false"}}, False, False),
        ({"labels": INJECT, "annotations": {"touchmark.dev/inject": "false"}}, False, False),
        ({"labels": {"app": "web"}}, False, False),
    ],
)
def test_a_pod_whose_label_is_taken_for_an_annotation_is_named(
    metadata: dict[str, Any], is_meshed: bool, is_named: bool
) -> None:
    make = make_meshed_pod if is_meshed else make_pod
    pod = make("web-9", namespace="bank", metadata=metadata)
    faults = find_faults(change(pods=[pod]))
    assert ["injection requests"] * is_named == [finding.subject for finding in faults]
    if is_named:
        assert "instead of an annotation: bank/web-9" in faults[0].observation
        assert 'metadata.annotations of the pod or its template: touchmark.dev/inject: "true"' in faults[0].hint


def test_pods_that_aren_t_ready_and_mixed_images_are_told_but_no_fault() -> None:
    old = make_meshed_pod("web-2", ready=False)
    old["spec"] = {"initContainers": [{**SIDECAR, "image": "touchmark/sidecar:0.0.9"}]}
    faults = find_faults(change(pods=[make_meshed_pod("web-1"), old]))
    assert [(finding.subject, finding.is_optional) for finding in faults] == [
        ("injected pods' state", True),
        ("sidecar images", True),
    ]
    assert "shop/web-2 (Running, not ready)" in faults[0].observation
    assert "1× touchmark/sidecar:0.0.9" in faults[1].observation


def test_a_policy_that_drops_the_tunnel_is_named_once_with_the_line_to_add() -> None:
    pods = [
        make_meshed_pod("web-1", metadata={"labels": {"app": "web"}}),
        make_meshed_pod("db-0", metadata={"labels": {"app": "db"}}),
    ]
    faults = find_faults(change(pods=pods, network_policies=[make_policy(ingress=[{"ports": PORTS}])]))
    tunnel, probes = faults
    assert tunnel.subject == "NetworkPolicy shop/narrow"
    assert tunnel.observation.startswith("ingress drops TCP 15008: the tunnel, although the application's own port")
    assert "shop/web-1 → shop/db-0" in tunnel.observation
    assert "{protocol: TCP, port: 15008}" in tunnel.hint
    assert (probes.is_optional, "15020" in probes.observation) == (True, True)


def test_pods_that_can_t_reach_the_ca_are_named() -> None:
    faults = find_faults(change(network_policies=[make_policy(policyTypes=["Egress"])]))
    assert [finding.observation for finding in faults] == ["egress drops TCP 15443: shop/web-1 → touchmark-system/ca-0"]


@pytest.mark.parametrize("field", ["pods", "namespaces"])
def test_what_may_not_be_asked_is_unknown_and_no_fault(field: str) -> None:
    faults = find_faults(change(**{field: ERROR}))
    assert faults
    assert all(finding.is_optional for finding in faults)


def test_an_unknown_and_a_pod_s_images() -> None:
    assert describe_unknown("x", ERROR, is_optional=False).observation == "unknown: may not be asked"
    assert list_images(make_meshed_pod("a"), ("touchmark-sidecar",)) == ["touchmark/sidecar:0.1.0"]
