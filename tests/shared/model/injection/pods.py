"""Pods for tests: strategies that draw them, and small ones by hand."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

from shared.model.kubernetes.contract import INJECT

Json = dict[str, Any]

NAMES = st.sampled_from(["web", "api", "cache", "log", "job"])
PORTS = st.sampled_from([80, 8080, 8443, 9000])


def make_pod(**spec: Any) -> Json:
    """A pod that asks for injection; ``spec`` adds to or replaces its fields."""
    containers = [{"name": "web", "image": "registry.example/web:1"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "annotations": {INJECT: "true"}},
        "spec": {"containers": containers, **spec},
    }


def make_pod_of(**container: Any) -> Json:
    """A pod that asks, of one container with these further fields."""
    return make_pod(containers=[{"name": "web", "image": "registry.example/web:1", **container}])


def annotate(pod: Json, **annotations: str) -> Json:
    """The pod with further annotations of ours; ``_`` in a name stands for ``-``."""
    pod = copy.deepcopy(pod)
    for name, value in annotations.items():
        pod["metadata"]["annotations"][f"touchmark.dev/{name.replace('_', '-')}"] = value
    return pod


def default(pod: Json) -> Json:
    """The pod as the API server's admission hands it to a webhook that it asks again.

    Its ServiceAccount plugin has mounted its token, LimitRanger has set a limit that was missing.
    """
    pod = copy.deepcopy(pod)
    for kind in ("initContainers", "containers"):
        for container in pod["spec"].get(kind, []):
            path = "/var/run/secrets/kubernetes.io/serviceaccount"
            container.setdefault("volumeMounts", []).append({"name": "kube-api", "mountPath": path, "readOnly": True})
            container.setdefault("resources", {}).setdefault("limits", {}).setdefault("cpu", "2")
    pod["spec"].setdefault("volumes", []).insert(0, {"name": "kube-api", "projected": {"sources": []}})
    return pod


_TIMES = st.fixed_dictionaries({}, optional={"timeoutSeconds": st.integers(1, 60), "periodSeconds": st.integers(1, 60)})
_HTTP = st.fixed_dictionaries(
    {"port": PORTS | st.just("http")},
    optional={
        "path": st.sampled_from(["/", "/healthz", "healthz?x=1", "/a b", "/ü", "/$(HOME)"]),
        "scheme": st.sampled_from(["HTTP", "HTTPS"]),
        "host": st.just("198.18.0.9"),
        "httpHeaders": st.just([{"name": "Host", "value": "web.example"}]),
    },
)
_HANDLERS = st.one_of(
    st.fixed_dictionaries({"httpGet": _HTTP}),
    st.fixed_dictionaries({"tcpSocket": st.fixed_dictionaries({"port": PORTS})}),
    st.fixed_dictionaries({"grpc": st.fixed_dictionaries({"port": PORTS}, optional={"service": st.just("shop.Api")})}),
    st.just({"exec": {"command": ["/bin/true"]}}),
)
_PROBES = st.builds(lambda handler, times: copy.deepcopy({**handler, **times}), _HANDLERS, _TIMES)
_HOOKS = st.one_of(st.fixed_dictionaries({"httpGet": _HTTP}), st.just({"sleep": {"seconds": 1}}))


@st.composite
def containers(draw: st.DrawFn, name: str, *, has_probes: bool) -> Json:
    """A container that injection takes."""
    container: Json = {"name": name, "image": f"registry.example/{name}:1"}
    container["ports"] = [{"name": "http", "containerPort": draw(PORTS)}]
    if has_probes:
        for field in ("livenessProbe", "readinessProbe", "startupProbe"):
            if draw(st.booleans()):
                container[field] = draw(_PROBES)
        if draw(st.booleans()):
            container["lifecycle"] = draw(st.fixed_dictionaries({}, optional={"postStart": _HOOKS, "preStop": _HOOKS}))
    if draw(st.booleans()):
        container["env"] = [{"name": "LEVEL", "value": "info"}]
    return copy.deepcopy(container)


@st.composite
def pods(draw: st.DrawFn) -> Json:
    """A pod that asks for injection and can have it."""
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    split = draw(st.integers(0, len(names) - 1))
    pod = make_pod(containers=[draw(containers(name, has_probes=True)) for name in names[split:]])
    if split:
        pod["spec"]["initContainers"] = []
        for name in names[:split]:
            is_native = draw(st.booleans())
            container = draw(containers(name, has_probes=is_native))
            pod["spec"]["initContainers"].append({**container, **({"restartPolicy": "Always"} if is_native else {})})
    if draw(st.booleans()):
        pod["spec"]["volumes"] = [{"name": "data", "emptyDir": {}}]
    if draw(st.booleans()):
        pod["spec"]["shareProcessNamespace"] = True
    return pod
