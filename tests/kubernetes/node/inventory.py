"""Every object that a cluster has, whatever its kind: what an installation adds, what it leaves behind. Does I/O."""

from __future__ import annotations

import json
from typing import Any

from tests.kubernetes.harness.kubectl import Kubectl

# They tell what happened, and end by themselves; componentstatuses are no objects but questions; a kubelet makes the
# last one of itself, when it comes to it.
_LEFT_OUT = ("events", "events.events.k8s.io", "componentstatuses", "csinodes.storage.k8s.io")
_NODE_LEASES = "kube-node-lease"


def list_objects(kubectl: Kubectl) -> dict[str, dict[str, Any]]:
    """All objects by ``kind.group namespace/name``, of every resource that the API server can list."""
    resources = kubectl("api-resources", "--verbs=list", "--output=name").split()
    wanted = ",".join(each for each in resources if each not in _LEFT_OUT)
    items: list[dict[str, Any]] = json.loads(
        kubectl("get", wanted, "--all-namespaces", "--ignore-not-found", "--output=json", timeout_s=120) or "{}"
    ).get("items", [])
    return {_name(item): item for item in items if item["metadata"].get("namespace") != _NODE_LEASES}


def _name(item: dict[str, Any]) -> str:
    group = item["apiVersion"].rpartition("/")[0]
    kind = item["kind"] + (f".{group}" if group else "")
    metadata = item["metadata"]
    return f"{kind} {metadata.get('namespace', '')}/{metadata['name']}"
