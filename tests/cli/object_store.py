"""An API server that keeps objects: server-side apply, trials, lists by label, deletion. For the commands' own tests.

It takes every object: what a real server refuses shows only there.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from cli.cluster.installation.bundle import KINDS
from tests.cli.fake_api import FakeAPI, make_status

CLUSTER = "https://fake"
STORAGE = {"metadata": {"name": "local", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}}
NODE = {
    "metadata": {"name": "n-1"},
    "status": {"nodeInfo": {"operatingSystem": "linux", "kernelVersion": "6.1.0", "kubeletVersion": "v1.34.4"}},
}
_PLURALS = frozenset(
    {
        *(kind.plural for kind in KINDS.values()),
        *(
            "endpointslices",
            "gadgets",
            "leases",
            "limitranges",
            "meshpolicies",
            "nodes",
            "pods",
            "priorityclasses",
            "programs",
        ),
        *("resourcequotas", "secrets", "securitycontextconstraints", "storageclasses", "widgets"),
    }
)


@dataclass
class ObjectStore:
    """Keeps objects by their path; ``FakeAPI.answers`` is taken over by it.

    Attributes:
        has_controllers: a Deployment is ready at once, and the CA writes its caBundle.
        holds: paths whose deletion only marks them, as a finalizer does.
        missing: plurals of which this cluster has no kind.
        refused: ``PATCH /path`` → what it is answered.
        applied: path → what was applied last: what the next apply leaves out of it goes.
        conflicts: path → what an apply of it is answered that takes nothing over.
    """

    api: FakeAPI
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    has_controllers: bool = True
    holds: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=lambda: {"securitycontextconstraints"})
    refused: dict[str, web.Response] = field(default_factory=dict)
    conflicts: dict[str, web.Response] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    applied: dict[str, dict[str, Any]] = field(default_factory=dict)

    def get(self, key: str) -> Any:
        """Stand in for a dictionary of canned answers."""
        return self._answer

    async def _answer(self, request: web.Request) -> Any:
        path = request.path
        if f"{request.method} {path}" in self.refused:
            return self.refused[f"{request.method} {path}"]
        if path == "/version":
            return {"gitVersion": "v1.34.4"}
        if path.endswith("selfsubjectaccessreviews"):
            return {"status": {"allowed": True}}
        if path == "/apis/admissionregistration.k8s.io/v1":
            return {"resources": [{"name": each.plural} for each in KINDS.values()]}
        if path == "/apis":
            versions = [{"version": "v1"}, {"version": "v1alpha1"}]
            return {"groups": [{"name": "example.org", "preferredVersion": versions[0], "versions": versions}]}
        if path == "/apis/example.org/v1":
            return {"resources": [_describe("widgets", "Widget"), _describe("widgets/status", "Widget")]}
        if path == "/apis/example.org/v1alpha1":
            return {"resources": [_describe("widgets", "Widget"), _describe("gadgets", "Gadget")]}
        if path == "/api/v1":
            return {"resources": [_describe("secrets", "Secret"), _describe("configmaps", "ConfigMap")]}
        plural = path.rpartition("/")[2]
        if plural in _PLURALS and request.method == "GET":
            return self._list(path, request.query.get("labelSelector", ""))
        if request.method == "GET":
            return self.objects.get(path)
        if request.method == "PATCH" and path in self.conflicts and "force" not in request.query:
            return self.conflicts[path]
        if request.method == "PATCH":
            return self._apply(path, json.loads(await request.read()), is_trial="dryRun" in request.query)
        if request.method == "DELETE" and path in self.objects and "dryRun" in request.query:
            return {}
        if request.method == "DELETE" and path in self.objects:
            self.deleted.append(path)
            if path not in self.holds:
                del self.objects[path]
            return {}
        return None

    def _list(self, path: str, selector: str) -> Any:
        head, _, plural = path.rpartition("/")
        if plural in self.missing:
            return make_status(404, "NotFound", "the server could not find the requested resource")
        found = [
            value
            for each, value in self.objects.items()
            if each.startswith(f"{head}/") and each.split("/")[-2] == plural and _has_label(value, selector)
        ]
        return {"items": found}

    def _apply(self, path: str, value: dict[str, Any], *, is_trial: bool) -> Any:
        parts = path.split("/")
        if "namespaces" in parts[:-2] and f"/api/v1/namespaces/{value['metadata']['namespace']}" not in self.objects:
            return make_status(404, "NotFound", "namespaces not found", name=value["metadata"]["namespace"])
        merged: dict[str, Any] = _merge(self.objects.get(path, {}), value)
        _prune(merged, self.applied.get(path, {}), value)
        if not is_trial:
            self.applied[path] = copy.deepcopy(value)
            if self.has_controllers and value["kind"] == "Deployment":
                count = value["spec"]["replicas"]
                merged["status"] = {"updatedReplicas": count, "availableReplicas": count, "replicas": count}
            if self.has_controllers and value["kind"] == "MutatingWebhookConfiguration":
                for each in merged["webhooks"]:
                    each["clientConfig"]["caBundle"] = "cm9vdHM="
            self.objects[path] = merged
        return merged

    def list_kinds(self) -> list[str]:
        """Return the kinds of what is there, each once."""
        return sorted({str(each.get("kind")) for each in self.objects.values()})


def _describe(name: str, kind: str) -> dict[str, Any]:
    return {"name": name, "kind": kind, "namespaced": True, "verbs": ["list", "delete"]}


def _has_label(value: dict[str, Any], selector: str) -> bool:
    key, _, wanted = selector.partition("=")
    return not selector or (value["metadata"].get("labels") or {}).get(key) == wanted


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and "name" in value


def _merge(before: Any, after: Any) -> Any:
    if isinstance(before, dict) and isinstance(after, dict):
        return copy.deepcopy({**before, **{key: _merge(before.get(key), each) for key, each in after.items()}})
    if isinstance(before, list) and isinstance(after, list) and all(_is_named(each) for each in (*before, *after)):
        known = {each["name"]: each for each in before}
        return [_merge(known.get(each["name"]), each) for each in after]
    return copy.deepcopy(after)


def _prune(merged: dict[str, Any], last: dict[str, Any], value: dict[str, Any]) -> None:
    for key, before in last.items():
        if key not in value:
            merged.pop(key, None)
        elif isinstance(before, dict) and isinstance(value[key], dict):
            _prune(merged[key], before, value[key])


def open_store(api: FakeAPI) -> ObjectStore:
    """Put a store behind an API: a cluster with a node and storage, in which nothing is installed."""
    store = ObjectStore(api)
    api.answers = store  # type: ignore[assignment]  # Only its ``get`` is used.
    store.objects["/apis/storage.k8s.io/v1/storageclasses/local"] = STORAGE
    store.objects["/api/v1/nodes/n-1"] = NODE
    return store


def add_member(store: ObjectStore, namespace: str, pod: str, image: str = "touchmark/sidecar:0.2.0") -> None:
    """Put a pod with a sidecar there."""
    store.objects[f"/api/v1/namespaces/{namespace}/pods/{pod}"] = {
        "metadata": {"name": pod, "namespace": namespace},
        "spec": {"initContainers": [{"name": "touchmark-sidecar", "image": image}], "containers": []},
        "status": {"phase": "Running"},
    }
