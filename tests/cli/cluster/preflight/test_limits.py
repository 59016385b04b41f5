"""LimitRanges and quotas that wouldn't admit our containers are found. On a real API server:
``tests/kubernetes/test_cli_doctor.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.cluster.preflight.limits import CA, POD, SIDECAR, VOLUME, Demand, find_faults

MANIFESTS = Path(__file__).parents[4] / "manifests"


def limit_range(**item: Any) -> dict[str, Any]:
    return {"metadata": {"name": "l", "namespace": "n"}, "spec": {"limits": [{"type": "Container", **item}]}}


def quota(hard: dict[str, str], used: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "q", "namespace": "n"}, "spec": {"hard": hard, **spec}, "status": {"used": used or {}}}


def test_the_demand_is_that_of_the_manifest() -> None:
    deployment = yaml.safe_load((MANIFESTS / "base/deployment.yaml").read_text(encoding="utf-8"))
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == {"requests": CA.requests, "limits": CA.limits}
    claim = yaml.safe_load((MANIFESTS / "overlays/single/volume-claim.yaml").read_text(encoding="utf-8"))
    assert claim["spec"]["resources"]["requests"]["storage"] == VOLUME["requests.storage"]


@pytest.mark.parametrize(
    ("hard", "used"),
    [
        ({"pods": "1"}, {"pods": "1"}),
        ({"count/pods": "0"}, {}),
        ({"persistentvolumeclaims": "2"}, {"persistentvolumeclaims": "2"}),
        ({"count/persistentvolumeclaims": "0"}, {}),
        ({"requests.storage": "10Gi"}, {"requests.storage": "9728Mi"}),
    ],
)
def test_a_pod_and_a_volume_are_counted_where_they_are_made(hard: dict[str, str], used: dict[str, str]) -> None:
    made = Demand(what="the CA", counted={**POD, **VOLUME})
    [fault] = find_faults(made, limit_ranges=[], quotas=[quota(hard, used)])
    [(key, most)] = hard.items()
    assert f"has {used.get(key, '0')} of {most} {key} in use" in fault
    assert find_faults(made, limit_ranges=[], quotas=[quota(hard={key: "20Gi"}, used=used)]) == []
    assert find_faults(Demand(what="a sidecar"), limit_ranges=[], quotas=[quota(hard, used)]) == []


@pytest.mark.parametrize(
    ("ranges", "quotas", "said"),
    [
        ([limit_range(max={"memory": "256Mi"})], [], "allows 256Mi of memory"),
        ([limit_range(max={"cpu": "1"})], [], "asks for a limit of cpu"),
        ([limit_range(max={"cpu": "1"}, default={"cpu": "500m"})], [], ""),
        ([limit_range(min={"cpu": "100m"})], [], "asks for 100m of cpu or more"),
        ([limit_range(maxLimitRequestRatio={"memory": "4"})], [], "4 times the request of memory"),
        ([limit_range(maxLimitRequestRatio={"memory": "8"})], [], ""),
        ([{**limit_range(), "spec": {"limits": [{"type": "Pod", "max": {"memory": "1"}}]}}], [], ""),
        ([], [quota({"limits.cpu": "4"})], "counts limits.cpu"),
        ([limit_range(default={"cpu": "100m"})], [quota({"limits.cpu": "4"})], ""),
        ([], [quota({"requests.memory": "1Gi"}, {"requests.memory": "1000Mi"})], "has 1000Mi of 1Gi requests.memory"),
        ([], [quota({"memory": "1Gi", "pods": "1", "limits.ephemeral-storage": "1"})], ""),
        ([], [quota({"limits.cpu": "1"}, scopes=["BestEffort"])], ""),
    ],
)
def test_a_sidecar_that_wouldnt_be_admitted_is_told_why(
    ranges: list[dict[str, Any]], quotas: list[dict[str, Any]], said: str
) -> None:
    faults = find_faults(SIDECAR, limit_ranges=ranges, quotas=quotas)
    assert [said in fault for fault in faults] == [True] * bool(said)
