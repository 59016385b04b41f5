"""Sidecars of the previous release and of today in one explicit namespace, and the way from one to the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from shared.model.kubernetes.contract import SIDECAR_CONTAINER
from shared.model.version import VERSION
from tests.kubernetes.node.market import ASK_ON, PATIENT
from tests.kubernetes.node.mesh import Mesh, eventually
from tests.releases import previous

SERVE = "from http.server import *; HTTPServer(('', 8080), SimpleHTTPRequestHandler).serve_forever()"


@pytest.fixture(scope="module")
def harbour(mesh: Mesh) -> Iterator[str]:
    """A server and a client that asks all the time, both injected with the previous release's sidecar."""
    mesh.install(sidecars=("sidecar-previous", "sidecar"))
    mesh.cluster.create_namespace("harbour", labels={"touchmark.dev/inject": "true"})
    mesh.kubectl.apply(deployment(mesh, "server", SERVE, port=8080), service("server"))
    mesh.cluster.wait_for_rollout("deployment/server", namespace="harbour")
    mesh.kubectl.apply(deployment(mesh, "client", ASK_ON, "http://server:8080/"))
    mesh.cluster.wait_for_rollout("deployment/client", namespace="harbour")
    eventually(lambda: "200" in requests(mesh, "client"), "the first answer")
    mesh.approve_what_was_seen("harbour/default")
    mesh.be_explicit("harbour")
    yield "harbour"
    mesh.install()
    mesh.kubectl("delete", "namespace", "harbour", "--wait=false")


def deployment(mesh: Mesh, name: str, program: str, *arguments: str, port: int = 0) -> dict[str, Any]:
    labels = {"app": name}
    container: dict[str, Any] = {
        "name": "app",
        "image": mesh.cluster.image("python"),
        "imagePullPolicy": "Never",
        "command": ["python3", "-c", program, *arguments],
    }
    if port:
        container |= {
            "readinessProbe": {"httpGet": {"path": "/etc/hostname", "port": port}, **PATIENT},
            "lifecycle": {"preStop": {"exec": {"command": ["sleep", "2"]}}},
        }
    spec = {"terminationGracePeriodSeconds": 10, "automountServiceAccountToken": False, "containers": [container]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "harbour"},
        "spec": {
            "selector": {"matchLabels": labels},
            "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def service(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "harbour"},
        "spec": {"selector": {"app": name}, "ports": [{"port": 8080}]},
    }


def requests(mesh: Mesh, app: str) -> list[str]:
    """How a client's requests have ended, oldest first."""
    return mesh.cluster.logs("harbour", mesh.find_pod("harbour", app), container="app").split("\n")[:-1]


def sidecar_image(mesh: Mesh, app: str) -> str:
    pod = mesh.kubectl.get("pod", "-n", "harbour", mesh.find_pod("harbour", app))
    [image] = [each["image"] for each in pod["spec"]["initContainers"] if each["name"] == SIDECAR_CONTAINER]
    return str(image)


def test_pods_of_both_releases_talk_and_a_rollout_moves_them_without_a_failed_request(mesh: Mesh, harbour: str) -> None:
    assert {sidecar_image(mesh, app) for app in ("server", "client")} == {mesh.cluster.image("sidecar-previous")}
    assert mesh.ask("status")["versions"] == {"command": VERSION, "ca": VERSION, "sidecars": versions(mesh)}
    assert previous.VERSION in versions(mesh)
    # From now on pods get today's sidecar; those of before go on, and come again after the CA's restart. Until then
    # they learn of no new pod.
    mesh.install(sidecars=("sidecar", "sidecar-previous"))
    eventually(lambda: mesh.count_connected(harbour) == 2, "the old sidecars' streams")
    failed = count_failed(mesh)
    mesh.kubectl("rollout", "restart", "deployment/server", "-n", harbour)
    mesh.cluster.wait_for_rollout("deployment/server", namespace=harbour, timeout_s=120)
    eventually(
        lambda: len(mesh.kubectl.get("pods", "-n", harbour, "-l", "app=server")["items"]) == 1, "the old pod's end"
    )
    assert sidecar_image(mesh, "server") == mesh.cluster.image("sidecar")
    # The client's sidecar is the previous release's still: it talks to today's.
    assert sidecar_image(mesh, "client") == mesh.cluster.image("sidecar-previous")
    seen = len(requests(mesh, "client"))
    eventually(lambda: len(requests(mesh, "client")) > seen + 5, "requests between both releases")
    assert count_failed(mesh) == failed, [line for line in requests(mesh, "client") if line.startswith("failed")]
    mesh.kubectl("rollout", "restart", "deployment/client", "-n", harbour)
    mesh.cluster.wait_for_rollout("deployment/client", namespace=harbour, timeout_s=120)
    eventually(lambda: "200" in requests(mesh, "client"), "an answer to the new client")
    assert count_failed(mesh) == 0


def versions(mesh: Mesh) -> dict[str, int]:
    return dict(mesh.ask("status")["versions"]["sidecars"])


def count_failed(mesh: Mesh) -> int:
    return sum(line.startswith("failed") for line in requests(mesh, "client"))
