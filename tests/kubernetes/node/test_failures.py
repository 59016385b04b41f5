"""What happens when parts end, for good or for a moment, and when a workload's image changes under approval."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from shared.model.kubernetes import SIDECAR_CONTAINER, SYSTEM_NAMESPACE
from tests.kubernetes.harness.kubectl import KubectlError
from tests.kubernetes.harness.node import Node
from tests.kubernetes.node.mesh import Mesh, eventually

ASK = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=8).status)"
# Asks ten times a second until it is stopped, and writes down how each request ended.
ASK_ON = """
import sys, time, urllib.request as u
while True:
    try:
        print(u.urlopen(sys.argv[1], timeout=8).status, flush=True)
    except Exception as error:
        print("failed", repr(error), flush=True)
    time.sleep(0.1)
"""
NGINX = (
    "pid /tmp/nginx.pid; error_log /dev/stderr; events {} "
    "http { access_log off; server { listen 8080; location / { return 200 ok; } "
    "location /onward { proxy_pass http://web/; } } }"
)


@pytest.fixture(scope="module")
def bank(mesh: Mesh) -> Iterator[str]:
    """An explicit namespace with an approved web server and an approved client that asks all the time."""
    mesh.cluster.create_namespace("bank", labels={"touchmark.dev/inject": "true"})
    for account in ("web", "client"):
        mesh.cluster.create_service_account("bank", account)
    mesh.kubectl.apply(service(), deployment(mesh, "nginx"))
    mesh.cluster.wait_for_rollout("deployment/web", namespace="bank")
    command = ["python3", "-c", ASK_ON, "http://web/"]
    mesh.run_pod("bank", "client", "python", command=command, service_account="client")
    eventually(lambda: "200" in requests(mesh), "the first answer")
    mesh.approve_what_was_seen("bank/web", "bank/client")
    mesh.be_explicit("bank")
    yield "bank"
    mesh.kubectl("delete", "namespace", "bank", "--wait=false")


def deployment(mesh: Mesh, image: str) -> dict[str, Any]:
    labels = {"app": "web"}
    container = {
        "name": "nginx",
        "image": mesh.cluster.image(image),
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", f"echo '{NGINX}' >/tmp/nginx.conf; exec nginx -c /tmp/nginx.conf -g 'daemon off;'"],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "2"]}}},
    }
    spec = {"serviceAccountName": "web", "terminationGracePeriodSeconds": 15, "automountServiceAccountToken": False,
            "containers": [container]}  # fmt: skip
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "bank"},
        "spec": {
            "selector": {"matchLabels": labels},
            "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def service() -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "bank"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }


def requests(mesh: Mesh) -> list[str]:
    """How the client's requests have ended, oldest first."""
    return mesh.cluster.logs("bank", "client", container="app").split("\n")[:-1]


def count_failed(mesh: Mesh) -> int:
    return sum(line.startswith("failed") for line in requests(mesh))


def pods(mesh: Mesh) -> dict[str, dict[str, Any]]:
    """The web pods that aren't ending, by image."""
    items = mesh.kubectl.get("pods", "-n", "bank", "-l", "app=web")["items"]
    return {pod["spec"]["containers"][0]["image"]: pod for pod in items if "deletionTimestamp" not in pod["metadata"]}


def ask_onward(mesh: Mesh, pod: dict[str, Any]) -> str:
    """What comes of a request that a web pod's own program makes to the Service."""
    script = f"import urllib.error\ntry:\n {ASK}\nexcept urllib.error.HTTPError as error: print(error.code)"
    command = ["python3", "-c", script, "http://127.0.0.1:8080/onward"]
    return mesh.cluster.execute("bank", pod["metadata"]["name"], *command, container="nginx").strip()


def restart_counts(pod: dict[str, Any]) -> set[int]:
    return {each["restartCount"] for each in pod["status"]["containerStatuses"]}


def test_a_rolling_update_to_a_program_that_nobody_approved_waits_and_the_old_pods_serve_on(
    mesh: Mesh, bank: str
) -> None:
    """What a user sees: no request fails, the rollout waits, the decisions name the command, and with it all heals."""
    digest = mesh.digest_of(bank, mesh.cluster.image("nginx-next"), "/usr/sbin/nginx")
    old, new = mesh.cluster.image("nginx"), mesh.cluster.image("nginx-next")
    before = count_failed(mesh)
    mesh.kubectl.apply(deployment(mesh, "nginx-next"))
    [withheld] = eventually(
        lambda: [r for r in mesh.decisions("--denied", "--namespace", bank) if digest in r["destination"]["program"]],
        "the refusal",
    )
    assert withheld["reason"] == "listener_not_approved"
    assert (withheld["destination"]["workload"], withheld["process"]["path"]) == ("bank/web", "/usr/sbin/nginx")
    asked = len(requests(mesh))
    status = mesh.kubectl.run("rollout", "status", "-n", bank, "deployment/web", "--timeout=3s")
    assert status.returncode != 0 and "1 old replicas are pending termination" in status.stdout
    eventually(
        lambda: any(
            "Readiness probe failed" in event["message"]
            for event in mesh.kubectl.get(
                "events", "-n", bank, "--field-selector", f"involvedObject.name={pods(mesh)[new]['metadata']['name']}"
            )["items"]
        ),
        "the kubelet's word",
    )
    eventually(lambda: len(requests(mesh)) >= asked + 20, "requests meanwhile")
    assert count_failed(mesh) == before, requests(mesh)[-50:]
    assert set(pods(mesh)) == {old, new}

    # It reaches nobody, and whoever goes there directly is refused; nothing but approval is missing.
    assert ask_onward(mesh, pods(mesh)[new]) == "502"
    eventually(
        lambda: [
            r for r in mesh.decisions("--denied", "--namespace", bank, "--reason", "program_not_approved")
            if digest in r["source"]["program"]
        ],
        "its own call's refusal",
    )  # fmt: skip
    target = f"http://{pods(mesh)[new]['status']['podIP']}:8080/"
    asking = mesh.kubectl.run("exec", "-n", bank, "client", "-c", "app", "--", "python3", "-c", ASK, target)
    assert asking.returncode != 0
    eventually(
        lambda: [
            r for r in mesh.decisions("--denied", "--namespace", bank, "--reason", "listener_not_approved")
            if r["source"]["workload"] == "bank/client"
        ],
        "the direct call's refusal",
    )  # fmt: skip
    said = mesh.run("decisions", "--denied", "--namespace", bank).stderr
    [command] = [line.partition("  # ")[0].split() for line in said.splitlines() if digest in line]
    assert command == ["touchmark", "program", "approve", "bank/web", f"sha256:{digest}", "-k"]
    mesh.touchmark(*command[1:-1])
    mesh.cluster.wait_for_rollout("deployment/web", namespace=bank, timeout_s=120)
    eventually(lambda: set(pods(mesh)) == {new}, "the old pod's end")
    assert restart_counts(pods(mesh)[new]) == {0}
    assert ask_onward(mesh, pods(mesh)[new]) == "200"
    asked = len(requests(mesh))
    eventually(lambda: len(requests(mesh)) >= asked + 20, "requests afterwards")
    assert count_failed(mesh) == before, requests(mesh)[-50:]


def test_a_rolling_update_to_an_approved_program_fails_no_request(mesh: Mesh, bank: str) -> None:
    """Back to the first image, whose program was approved at the beginning."""
    digest = mesh.digest_of(bank, mesh.cluster.image("nginx"), "/usr/sbin/nginx")
    before = count_failed(mesh)
    mesh.kubectl.apply(deployment(mesh, "nginx"))
    mesh.cluster.wait_for_rollout("deployment/web", namespace=bank, timeout_s=120)
    eventually(lambda: len(mesh.kubectl.get("pods", "-n", bank, "-l", "app=web")["items"]) == 1, "the old pod's end")
    assert count_failed(mesh) == before, requests(mesh)[-50:]
    eventually(
        lambda: [
            r for r in mesh.decisions("--namespace", bank, "--since", "30s") if digest in r["destination"]["program"]
        ],
        "a decision that names the program",
    )


def test_a_server_whose_approval_is_withdrawn_serves_nobody_until_it_is_approved_again(mesh: Mesh, bank: str) -> None:
    digest = mesh.digest_of(bank, mesh.cluster.image("nginx"), "/usr/sbin/nginx")
    [name] = [each["metadata"]["name"] for each in mesh.kubectl.get("programs.touchmark.dev", "-n", bank)["items"]
              if any(digest in text for text in each["spec"]["digests"])]  # fmt: skip
    mesh.kubectl("delete", "programs.touchmark.dev", "-n", bank, name)
    eventually(lambda: requests(mesh)[-1].startswith("failed"), "the first refusal")
    record = eventually(
        lambda: [r for r in mesh.decisions("--denied", "--namespace", bank, "--since", "1m")
                 if r["reason"] == "listener_not_approved"], "the refusal's record",
    )[-1]  # fmt: skip
    assert record["destination"]["workload"] == "bank/web"
    mesh.touchmark("program", "approve", "bank/web", f"sha256:{digest}")
    eventually(lambda: requests(mesh)[-1] == "200", "an answer again")


def test_a_killed_sidecar_comes_back_by_itself_and_its_pod_with_it(mesh: Mesh, bank: str, own_node: Node) -> None:
    pod = mesh.find_pod(bank, "web")
    before = restarts(mesh, bank, pod)
    own_node.kill_container(bank, pod, SIDECAR_CONTAINER)
    eventually(lambda: restarts(mesh, bank, pod) > before, "the sidecar's restart")
    mesh.cluster.wait_for("condition=Ready", f"pod/{pod}", namespace=bank)
    eventually(lambda: requests(mesh)[-1] == "200", "an answer again")


def restarts(mesh: Mesh, namespace: str, pod: str) -> int:
    states = mesh.kubectl.get("pod", "-n", namespace, pod)["status"]["initContainerStatuses"]
    [count] = [each["restartCount"] for each in states if each["name"] == SIDECAR_CONTAINER]
    return int(count)


def test_without_the_ca_known_programs_go_on_and_afterwards_everything_is_as_before(mesh: Mesh, bank: str) -> None:
    before = count_failed(mesh)
    mesh.kubectl("scale", "deployment/touchmark-ca", "-n", SYSTEM_NAMESPACE, "--replicas=0")
    gone = ["--for=delete", "pod", "-l", "app.kubernetes.io/name=touchmark-ca", "--timeout=60s"]
    mesh.kubectl("wait", "-n", SYSTEM_NAMESPACE, *gone, timeout_s=70)
    try:
        answered = len(requests(mesh))
        eventually(lambda: len(requests(mesh)) >= answered + 20, "requests without the CA")
        assert count_failed(mesh) == before
        # A pod that asks to be in the mesh isn't made without its sidecar; one that doesn't is none of our business.
        with pytest.raises(KubectlError, match=r"inject\.touchmark\.dev"):
            mesh.run_pod(bank, "late", "tools", command=["sleep", "60"], wait=False)
        mesh.run_pod("default", "bystander", "tools", command=["sleep", "60"], wait=False)
        mesh.kubectl("delete", "pod", "-n", "default", "bystander", "--now", "--wait=false")
    finally:
        mesh.kubectl("scale", "deployment/touchmark-ca", "-n", SYSTEM_NAMESPACE, "--replicas=1")
        mesh.cluster.wait_for_rollout("deployment/touchmark-ca", namespace=SYSTEM_NAMESPACE, timeout_s=120)
    mesh.run_pod(bank, "late", "python", command=["sleep", "3600"], service_account="client")
    eventually(
        lambda: (
            mesh.kubectl.run("exec", "-n", bank, "late", "-c", "app", "--", "python3", "-c", ASK, "http://web/").stdout
            == "200\n"
        ),
        "an answer for a pod that came after the CA",
    )
    assert count_failed(mesh) == before
