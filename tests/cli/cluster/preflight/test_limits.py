"""LimitRanges and quotas that wouldn't admit our containers are found. On a real API server:
``tests/kubernetes/test_cli_doctor.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.cluster.preflight.limits import CA, SIDECAR, find_faults

DEPLOYMENT = Path(__file__).parents[4] / "manifests/base/deployment.yaml"


def limit_range(**item: Any) -> dict[str, Any]:
    return {"metadata": {"name": "l", "namespace": "n"}, "spec": {"limits": [{"type": "Container", **item}]}}


def quota(hard: dict[str, str], used: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "q", "namespace": "n"}, "spec": {"hard": hard, **spec}, "status": {"used": used or {}}}


def test_the_demand_is_that_of_the_manifest() -> None:
    deployment = yaml.safe_load(DEPLOYMENT.read_text(encoding="utf-8"))
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == {"requests": CA.requests, "limits": CA.limits}


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
