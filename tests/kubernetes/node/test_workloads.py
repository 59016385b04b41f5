"""Kinds of workloads and of traffic on a real node: Jobs end, a server that speaks first is heard, addresses move."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from shared.model.kubernetes.contract import SIDECAR_CONTAINER
from tests.kubernetes.harness.node import Node
from tests.kubernetes.node.mesh import Mesh, eventually

# Greets as a mail server does, before the client has said anything; ends at QUIT.
SMTP = """
import socketserver
class Greeter(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"220 mail.example ESMTP\\r\\n")
        for line in self.rfile:
            self.wfile.write(b"221 bye\\r\\n" if line.upper().startswith(b"QUIT") else b"250 ok\\r\\n")
            if line.upper().startswith(b"QUIT"):
                return
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
Server(("0.0.0.0", 2525), Greeter).serve_forever()
"""
ASK_SMTP = """
import smtplib, sys, time
began = time.monotonic()
with smtplib.SMTP(sys.argv[1], 2525, timeout=8) as mail:
    print(mail.noop()[0], "fast" if time.monotonic() - began < 5 else "slow")
"""


@pytest.fixture(scope="module")
def shop(mesh: Mesh) -> Iterator[str]:
    """A namespace whose pods are in the mesh by its label."""
    mesh.cluster.create_namespace("shop", labels={"touchmark.dev/inject": "true"})
    yield "shop"
    mesh.kubectl("delete", "namespace", "shop", "--wait=false")


@pytest.fixture(scope="module")
def outside(mesh: Mesh) -> Iterator[str]:
    """A namespace outside the mesh, with a pod to call from and a mail server to be called."""
    mesh.cluster.create_namespace("outside")
    mesh.run_pod("outside", "caller", "tools", command=["sleep", "3600"], wait=False)
    mesh.run_pod("outside", "mail", "python", command=["python3", "-c", SMTP], wait=False)
    for pod in ("caller", "mail"):
        mesh.cluster.wait_for("condition=Ready", f"pod/{pod}", namespace="outside")
    yield "outside"
    mesh.kubectl("delete", "namespace", "outside", "--wait=false")


def address(mesh: Mesh, namespace: str, pod: str) -> str:
    return str(mesh.kubectl.get("pod", "-n", namespace, pod)["status"]["podIP"])


def job_spec(script: str, image: str) -> dict[str, Any]:
    return {
        "backoffLimit": 0,
        "template": {
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": False,
                "containers": [
                    {"name": "work", "image": image, "imagePullPolicy": "Never", "command": ["sh", "-c", script]}
                ],
            }
        },
    }


def test_a_job_in_the_mesh_talks_and_ends(mesh: Mesh, shop: str) -> None:
    mesh.run_pod(shop, "server", "python", command=["python3", "-m", "http.server", "8080"])
    script = f"curl -sS --max-time 10 -o /dev/null -w '%{{http_code}}' http://{address(mesh, shop, 'server')}:8080/"
    spec = job_spec(script, mesh.cluster.image("tools"))
    mesh.kubectl.apply(
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once", "namespace": shop}, "spec": spec}
    )
    mesh.cluster.wait_for("condition=Complete", "job/once", namespace=shop)
    [pod] = mesh.kubectl.get("pods", "-n", shop, "-l", "job-name=once")["items"]
    assert mesh.cluster.logs(shop, pod["metadata"]["name"], container="work") == "200"
    # The sidecar has ended with the pod, and by itself.
    eventually(
        lambda: mesh.kubectl.get("pod", "-n", shop, pod["metadata"]["name"])["status"]["phase"] == "Succeeded",
        "the pod's end",
    )


def test_a_cron_jobs_pods_are_injected_as_others(mesh: Mesh, shop: str) -> None:
    spec = {
        "schedule": "0 0 1 1 *",
        "jobTemplate": {"spec": job_spec("true", mesh.cluster.image("tools"))},
    }
    mesh.kubectl.apply(
        {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "nightly", "namespace": shop}, "spec": spec}
    )
    mesh.kubectl("create", "job", "-n", shop, "--from=cronjob/nightly", "tonight")
    mesh.cluster.wait_for("condition=Complete", "job/tonight", namespace=shop)
    [pod] = mesh.kubectl.get("pods", "-n", shop, "-l", "job-name=tonight")["items"]
    assert SIDECAR_CONTAINER in [each["name"] for each in pod["spec"]["initContainers"]]


def test_members_of_a_stateful_set_reach_each_other_by_their_headless_names(mesh: Mesh, shop: str) -> None:
    labels = {"app": "ring"}
    command = ["python3", "-m", "http.server", "8080"]
    container = {"name": "app", "image": mesh.cluster.image("python"), "imagePullPolicy": "Never", "command": command}
    mesh.kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "ring", "namespace": shop},
            "spec": {"clusterIP": "None", "selector": labels, "ports": [{"port": 8080}]},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": "ring", "namespace": shop},
            "spec": {
                "serviceName": "ring",
                "replicas": 2,
                "podManagementPolicy": "Parallel",
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "terminationGracePeriodSeconds": 2,
                        "automountServiceAccountToken": False,
                        "containers": [container],
                    },
                },
            },
        },
    )
    mesh.cluster.wait_for_rollout("statefulset/ring", namespace=shop)
    fetch = "import urllib.request as u; print(u.urlopen('http://ring-1.ring:8080/', timeout=8).status)"
    eventually(
        lambda: (
            mesh.kubectl.run("exec", "-n", shop, "ring-0", "-c", "app", "--", "python3", "-c", fetch).stdout == "200\n"
        ),
        "an answer of the other member",
    )
    target = address(mesh, shop, "ring-1")
    record = eventually(
        lambda: [r for r in mesh.decisions("--namespace", shop) if r["destination"]["address"] == f"{target}:8080"],
        "the decision",
    )[-1]
    assert record["transport"] == "tunnel"


def test_a_failing_probe_still_fails(mesh: Mesh, shop: str) -> None:
    container = {"readinessProbe": {"httpGet": {"path": "/", "port": 8081}, "periodSeconds": 1}}
    mesh.run_pod(shop, "deaf", "python", command=["sleep", "3600"], container=container, wait=False)
    eventually(
        lambda: any(
            "Readiness probe failed" in event["message"]
            for event in mesh.kubectl.get("events", "-n", shop, "--field-selector", "involvedObject.name=deaf")["items"]
        ),
        "the kubelet's word that it fails",
    )
    assert not mesh.kubectl.get("pod", "-n", shop, "deaf")["status"]["containerStatuses"][0]["ready"]


def test_a_server_that_speaks_first_is_heard_at_once_by_meshed_and_unmeshed_clients(
    mesh: Mesh, shop: str, outside: str
) -> None:
    mesh.run_pod(shop, "mail", "python", command=["python3", "-c", SMTP])
    mesh.run_pod(shop, "writer", "python", command=["sleep", "3600"])
    mesh.run_pod(outside, "writer", "python", command=["sleep", "3600"])
    for source, destination in ((shop, shop), (outside, shop), (shop, outside)):
        target = address(mesh, destination, "mail")
        said = mesh.cluster.execute(source, "writer", "python3", "-c", ASK_SMTP, target, container="app")
        assert said == "250 fast\n", (source, destination)


def test_a_pod_without_sidecar_is_served_in_permissive_mode_and_marked(mesh: Mesh, shop: str, outside: str) -> None:
    target = address(mesh, shop, "server")
    assert "200" in mesh.cluster.execute(
        outside,
        "caller",
        "curl",
        "-sS",
        "--max-time",
        "8",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        f"http://{target}:8080/",
    )
    record = eventually(
        lambda: [r for r in mesh.decisions("--would-deny", "--reason", "peer_unidentified") if r["port"] == 8080],
        "the mark",
    )[-1]
    assert record["source"]["workload"] == "" and record["transport"] == "plaintext"


def test_an_address_that_changed_hands_reaches_nobody_of_the_old_name(mesh: Mesh, shop: str, own_node: Node) -> None:
    """The next pod may get the address: it is expected there by its own name from the first connection on."""
    mesh.run_pod(shop, "first", "python", command=["python3", "-m", "http.server", "8080"])
    old = address(mesh, shop, "first")
    mesh.kubectl("delete", "pod", "-n", shop, "first", "--now")
    mesh.cluster.create_service_account(shop, "second")
    own_node.hand_out_next(old)
    mesh.run_pod(shop, "second", "python", service_account="second", command=["python3", "-m", "http.server", "8080"])
    assert address(mesh, shop, "second") == old
    fetch = f"import urllib.request as u; print(u.urlopen('http://{old}:8080/', timeout=8).status)"
    assert mesh.cluster.execute(shop, "server", "python3", "-c", fetch, container="app") == "200\n"
    record = eventually(
        lambda: [
            r
            for r in mesh.decisions("--namespace", shop, "--since", "1m")
            if r["destination"]["address"] == f"{old}:8080"
        ],
        "the decision",
    )[-1]
    assert record["destination"]["workload"] == f"{shop}/second"
    assert record["transport"] == "tunnel"
