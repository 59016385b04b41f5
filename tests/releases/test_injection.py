"""Pods that the previous release injected may join today's CA, and are injected anew as if they had never been."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
import yaml

from ca.evidence.pod import Pod, find_fault
from shared.model.injection.containers import InjectionOptions, find_ca_host
from shared.model.injection.json_patch import apply_patch
from shared.model.injection.patch import inject
from shared.model.kubernetes.contract import INJECT, LOG_FORMAT
from tests.releases import previous
from tests.shared.model.injection.golden_injection import FILES

PODS = ("plain", "probes", "annotations")
BEFORE = "registry.example/sidecar:before"
OPTIONS = InjectionOptions(
    sidecar_image="registry.example/sidecar:today", trust_domain="example.org", draw_path_secret=lambda: "ab" * 16
)
# Prints what a release makes of each pod, and what it says to pods that today's has injected.
_PROGRAM = f"""
import json, sys
import msgspec
from ca.evidence.pod import Pod, find_fault
from shared.model.injection import inject
from shared.model.injection_containers import InjectionOptions
from shared.model.json_patch import apply_patch
given = json.load(sys.stdin)
options = InjectionOptions(sidecar_image={BEFORE!r}, trust_domain="example.org")
injected = []
for pod in given["pods"]:
    made = inject(pod, namespace="shop", namespace_labels=None, options=options)
    injected.append(apply_patch(pod, made.patch))
faults = [
    find_fault(msgspec.convert(pod, Pod), images=given["images"], ca_names=given["names"]) for pod in given["injected"]
]
json.dump({{"injected": injected, "faults": faults}}, sys.stdout)
"""


def read_pod(case: str) -> dict[str, Any]:
    pod: dict[str, Any] = yaml.safe_load((FILES / f"{case}.in.yaml").read_text(encoding="utf-8"))
    pod["metadata"]["annotations"] = {**pod["metadata"].get("annotations", {}), INJECT: "true"}
    # Probes of other hosts 0.1 sent to the sidecar as well; a look-alike among them it refused.
    for container in pod["spec"]["containers"]:
        if container["name"] == "exporter":
            del container["livenessProbe"]
            for action in (container["readinessProbe"], container["lifecycle"]["preStop"]):
                action["httpGet"]["scheme"] = "HTTP"  # As the API server completes it.
    return pod


def read_pod_of_before(case: str) -> dict[str, Any]:
    """Leave out what the previous release refuses, as it doesn't know it: the annotation, and the sidecar's option."""
    pod = read_pod(case)
    pod["metadata"]["annotations"].pop(LOG_FORMAT, None)
    return pod


def inject_today(pod: dict[str, Any]) -> dict[str, Any]:
    made = inject(pod, namespace="shop", namespace_labels=None, options=OPTIONS)
    assert made is not None
    injected: dict[str, Any] = apply_patch(pod, made.patch)
    return injected


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the previous release makes of the pods, and finds in today's."""
    given = {
        "pods": [read_pod_of_before(case) for case in PODS],
        "injected": [inject_today(read_pod_of_before(case)) for case in PODS],
        "images": [BEFORE, OPTIONS.sidecar_image],
        "names": [find_ca_host(OPTIONS)],
    }
    release = previous.unpack(tmp_path_factory.mktemp("release"))
    answer: dict[str, Any] = json.loads(previous.run(release, _PROGRAM, json.dumps(given).encode()))
    return answer


def test_a_pod_that_the_previous_release_injected_may_join(answer: dict[str, Any]) -> None:
    for pod in answer["injected"]:
        found = msgspec.convert(pod, Pod)
        names = [find_ca_host(OPTIONS)]
        assert find_fault(found, images=[OPTIONS.sidecar_image, BEFORE], ca_names=names) == ""
        assert "image that may not join" in find_fault(found, images=[OPTIONS.sidecar_image], ca_names=names)


def test_a_replica_of_the_previous_release_lets_pods_in_that_today_s_has_injected(answer: dict[str, Any]) -> None:
    assert answer["faults"] == ["" for _ in PODS]


def test_injected_again_by_today_s_release_a_pod_is_as_if_it_had_never_been(answer: dict[str, Any]) -> None:
    for case, pod in zip(PODS, answer["injected"], strict=True):
        assert inject_today(pod) == inject_today(read_pod_of_before(case))
