"""Pods, Services and slices as the API server writes them, for tests."""

from __future__ import annotations

import copy
import json
from typing import Any

import msgspec

from ca.evidence.pod import Pod
from ca.kubernetes.cluster.pods import PodIndex, PodRecord, trim_pod
from shared.model.kubernetes.contract import (
    CAPTURE_CONTAINER,
    INJECT,
    SIDECAR_CONTAINER,
    SIDECAR_UID,
    TOKEN_AUDIENCE,
    TOKEN_DIRECTORY,
    TOKEN_VOLUME,
    TRUST_CONFIG_MAP,
    TRUST_DIRECTORY,
    TRUST_KEY,
    TRUST_VOLUME,
)

IMAGE = "registry.test/touchmark-sidecar:1"
CA_NAMES = frozenset({"touchmark-ca.touchmark-system.svc"})
UID = "11111111-2222-4333-8444-555555555555"
_API_TOKEN = {"name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}


def make_pod_json(
    name: str = "web-0",
    *addresses: str,
    namespace: str = "shop",
    account: str = "web",
    uid: str = UID,
    phase: str = "Running",
    injected: bool = True,
    annotation: str | None = "true",
    created: str = "2026-11-25T10:00:00Z",
    image: str = IMAGE,
) -> dict[str, Any]:
    """Make a pod, injected unless told otherwise."""
    spec: dict[str, Any] = {
        "serviceAccountName": account,
        "nodeName": "node-1",
        "containers": [{"name": "web", "image": "nginx", "volumeMounts": [_API_TOKEN]}],
        "volumes": [{"name": "kube-api-access-x", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}],
    }
    if injected:
        inject(spec, image=image)
    annotations = {INJECT: annotation} if annotation is not None else {}
    metadata = {"name": name, "namespace": namespace, "uid": uid, "creationTimestamp": created, "resourceVersion": "1"}
    status = {"phase": phase, "podIP": addresses[0] if addresses else "", "podIPs": [{"ip": ip} for ip in addresses]}
    return {"metadata": {**metadata, "annotations": annotations}, "spec": spec, "status": status}


def inject(spec: dict[str, Any], *, image: str = IMAGE) -> None:
    """Put our containers and volumes into a pod's spec, as injection does."""
    capture = {
        "name": CAPTURE_CONTAINER,
        "image": image,
        "command": ["python3"],
        "args": ["-m", "sidecar.capture.install", "--exclude-outbound-ports", "9"],
        "securityContext": {"runAsUser": 0, "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}},
        "volumeMounts": [_API_TOKEN],
    }
    arguments = ["--capture", "redirect", "--redirect-installed", "--ca", "touchmark-ca.touchmark-system.svc:15443"]
    arguments += ["--trust-domain", "touchmark.local", "--service-account-token", f"{TOKEN_DIRECTORY}/token"]
    arguments += ["--trust-file", f"{TRUST_DIRECTORY}/{TRUST_KEY}", "--health-port", "15020"]
    sidecar = {
        "name": SIDECAR_CONTAINER,
        "image": image,
        "args": arguments,
        "restartPolicy": "Always",
        "env": [{"name": "TOUCHMARK_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "securityContext": {
            "runAsUser": SIDECAR_UID,
            "capabilities": {"drop": ["ALL"], "add": ["SYS_PTRACE", "DAC_READ_SEARCH"]},
        },
        "startupProbe": {"httpGet": {"path": "/ready", "port": 15020}},
        "volumeMounts": [
            {"name": TOKEN_VOLUME, "mountPath": TOKEN_DIRECTORY, "readOnly": True},
            {"name": TRUST_VOLUME, "mountPath": TRUST_DIRECTORY, "readOnly": True},
            _API_TOKEN,
        ],
    }
    token = {"audience": TOKEN_AUDIENCE, "expirationSeconds": 3600, "path": "token"}
    spec["initContainers"] = [capture, sidecar, *spec.get("initContainers", [])]
    spec["volumes"] = [
        *spec.get("volumes", []),
        {"name": TOKEN_VOLUME, "projected": {"sources": [{"serviceAccountToken": token}]}},
        {"name": TRUST_VOLUME, "configMap": {"name": TRUST_CONFIG_MAP, "optional": False}},
    ]
    spec["shareProcessNamespace"] = True


def decode_pod(pod: dict[str, Any]) -> Pod:
    """Read it as the CA does."""
    return msgspec.json.decode(json.dumps(pod), type=Pod)


def make_record(name: str = "web-0", *addresses: str, **options: Any) -> PodRecord:
    """Make what is remembered of such a pod. ``terminating=True``: its deletion has been asked for."""
    terminating = options.pop("terminating", False)
    pod = make_pod_json(name, *addresses, **options)
    if terminating:
        pod["metadata"]["deletionTimestamp"] = "2026-11-25T11:00:00Z"
    return trim_pod(decode_pod(pod), images=[IMAGE], ca_names=CA_NAMES)


def make_pod_index() -> PodIndex:
    """Make an index whose changes nobody hears."""
    return PodIndex(on_addresses=lambda _addresses: None, on_gone=lambda _pod: None)


def make_uid(number: int) -> str:
    """Make one of many UIDs, which differ in the digits that an instance's name has."""
    return f"{number:08x}-2222-4333-8444-555555555555"


def changed(pod: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return the pod with one field set, or taken away by None; ``path`` is dotted, numbers index lists."""
    pod = copy.deepcopy(pod)
    place: Any = pod
    *way, last = path.split(".")
    for step in way:
        place = place[int(step)] if isinstance(place, list) else place.setdefault(step, {})
    if isinstance(place, list):
        if last == "+":
            place.append(value)
        else:
            place[int(last)] = value
    elif value is None:
        place.pop(last, None)
    else:
        place[last] = value
    return pod
