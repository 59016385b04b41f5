"""What happens when parts end, for good or for a moment, and when a workload's image changes under approval."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from shared.model.kubernetes.contract import SIDECAR_CONTAINER, SYSTEM_NAMESPACE
from tests.kubernetes.harness.kubectl import KubectlError
from tests.kubernetes.harness.node import Node
from tests.kubernetes.node.market import ASK_ON, Market
from tests.kubernetes.node.mesh import Mesh, eventually

ASK = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=8).status)"


@pytest.fixture(scope="module")
def bank(mesh: Mesh) -> Iterator[Market]:
    """An explicit namespace with an approved web server and an approved client that asks all the time."""
    market = Market(mesh, "bank")
    market.open(ASK_ON)
    yield market
    market.close()


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
    mesh: Mesh, bank: Market
) -> None:
    """What a user sees: no request fails, the rollout waits, the decisions name the command, and with it all heals."""
    digest = mesh.digest_of(bank.namespace, mesh.cluster.image("nginx-next"), "/usr/sbin/nginx")
    old, new = mesh.cluster.image("nginx"), mesh.cluster.image("nginx-next")
    before = bank.count_failed()
    bank.deploy("nginx-next")
    [withheld] = eventually(
        lambda: [
            r
            for r in mesh.decisions("--denied", "--namespace", bank.namespace)
            if digest in r["destination"]["program"]
        ],
        "the refusal",
    )
    assert withheld["reason"] == "listener_not_approved"
    assert (withheld["destination"]["workload"], withheld["process"]["path"]) == ("bank/web", "/usr/sbin/nginx")
    asked = len(bank.requests())
    status = mesh.kubectl.run("rollout", "status", "-n", bank.namespace, "deployment/web", "--timeout=3s")
    assert status.returncode != 0 and "1 old replicas are pending termination" in status.stdout
    eventually(
        lambda: any(
            "Readiness probe failed" in event["message"]
            for event in mesh.kubectl.get(
                "events",
                "-n",
                bank.namespace,
                "--field-selector",
                f"involvedObject.name={pods(mesh)[new]['metadata']['name']}",
            )["items"]
        ),
        "the kubelet's word",
    )
    eventually(lambda: len(bank.requests()) >= asked + 20, "requests meanwhile")
    bank.expect_no_failure_since(before)
    assert set(pods(mesh)) == {old, new}

    # It reaches nobody, and whoever goes there directly is refused; nothing but approval is missing.
    assert ask_onward(mesh, pods(mesh)[new]) == "502"
    eventually(
        lambda: [
            r for r in mesh.decisions("--denied", "--namespace", bank.namespace, "--reason", "program_not_approved")
            if digest in r["source"]["program"]
        ],
        "its own call's refusal",
    )  # fmt: skip
    target = f"http://{pods(mesh)[new]['status']['podIP']}:8080/"
    asking = mesh.kubectl.run("exec", "-n", bank.namespace, "client-0", "-c", "app", "--", "python3", "-c", ASK, target)
    assert asking.returncode != 0
    eventually(
        lambda: [
            r for r in mesh.decisions("--denied", "--namespace", bank.namespace, "--reason", "listener_not_approved")
            if r["source"]["workload"] == "bank/client"
        ],
        "the direct call's refusal",
    )  # fmt: skip
    said = mesh.run("decisions", "--denied", "--namespace", bank.namespace).stderr
    [command] = [line.partition("  # ")[0].split() for line in said.splitlines() if digest in line]
    assert command == ["touchmark", "program", "approve", "bank/web", f"sha256:{digest}", "-k"]
    mesh.touchmark(*command[1:-1])
    bank.wait_until_deployed()
    eventually(lambda: set(pods(mesh)) == {new}, "the old pod's end")
    assert restart_counts(pods(mesh)[new]) == {0}
    assert ask_onward(mesh, pods(mesh)[new]) == "200"
    asked = len(bank.requests())
    eventually(lambda: len(bank.requests()) >= asked + 20, "requests afterwards")
    bank.expect_no_failure_since(before)


def test_a_rolling_update_to_an_approved_program_fails_no_request(mesh: Mesh, bank: Market) -> None:
    """Back to the first image, whose program was approved at the beginning."""
    digest = mesh.digest_of(bank.namespace, mesh.cluster.image("nginx"), "/usr/sbin/nginx")
    before = bank.count_failed()
    bank.deploy("nginx")
    bank.wait_until_deployed()
    eventually(
        lambda: len(mesh.kubectl.get("pods", "-n", bank.namespace, "-l", "app=web")["items"]) == 1, "the old pod's end"
    )
    bank.expect_no_failure_since(before)
    eventually(
        lambda: [
            r
            for r in mesh.decisions("--namespace", bank.namespace, "--since", "30s")
            if digest in r["destination"]["program"]
        ],
        "a decision that names the program",
    )


def test_a_server_whose_approval_is_withdrawn_serves_nobody_until_it_is_approved_again(
    mesh: Mesh, bank: Market
) -> None:
    digest = mesh.digest_of(bank.namespace, mesh.cluster.image("nginx"), "/usr/sbin/nginx")
    programs = mesh.kubectl.get("programs.touchmark.dev", "-n", bank.namespace)["items"]
    [name] = [each["metadata"]["name"] for each in programs if any(digest in text for text in each["spec"]["digests"])]
    mesh.kubectl("delete", "programs.touchmark.dev", "-n", bank.namespace, name)
    eventually(lambda: bank.requests()[-1].startswith("failed"), "the first refusal")
    record = eventually(
        lambda: [r for r in mesh.decisions("--denied", "--namespace", bank.namespace, "--since", "1m")
                 if r["reason"] == "listener_not_approved"], "the refusal's record",
    )[-1]  # fmt: skip
    assert record["destination"]["workload"] == "bank/web"
    mesh.touchmark("program", "approve", "bank/web", f"sha256:{digest}")
    eventually(lambda: bank.requests()[-1] == "200", "an answer again")


def test_a_killed_sidecar_comes_back_by_itself_and_its_pod_with_it(mesh: Mesh, bank: Market, own_node: Node) -> None:
    pod = mesh.find_pod(bank.namespace, "web")
    before = restarts(mesh, bank.namespace, pod)
    own_node.kill_container(bank.namespace, pod, SIDECAR_CONTAINER)
    eventually(lambda: restarts(mesh, bank.namespace, pod) > before, "the sidecar's restart")
    mesh.cluster.wait_for("condition=Ready", f"pod/{pod}", namespace=bank.namespace)
    eventually(lambda: bank.requests()[-1] == "200", "an answer again")


def restarts(mesh: Mesh, namespace: str, pod: str) -> int:
    states = mesh.kubectl.get("pod", "-n", namespace, pod)["status"]["initContainerStatuses"]
    [count] = [each["restartCount"] for each in states if each["name"] == SIDECAR_CONTAINER]
    return int(count)


def test_without_the_ca_known_programs_go_on_and_afterwards_everything_is_as_before(mesh: Mesh, bank: Market) -> None:
    before, tries = bank.count_failed(), count_tries(mesh, bank)
    mesh.kubectl("scale", "deployment/touchmark-ca", "-n", SYSTEM_NAMESPACE, "--replicas=0")
    gone = ["--for=delete", "pod", "-l", "app.kubernetes.io/name=touchmark-ca", "--timeout=60s"]
    mesh.kubectl("wait", "-n", SYSTEM_NAMESPACE, *gone, timeout_s=70)
    try:
        answered = len(bank.requests())
        eventually(lambda: len(bank.requests()) >= answered + 20, "requests without the CA")
        bank.expect_no_failure_since(before)
        # A pod that asks to be in the mesh isn't made without its sidecar; one that doesn't is none of our business.
        with pytest.raises(KubectlError, match=r"inject\.touchmark\.dev"):
            mesh.run_pod(bank.namespace, "late", "tools", command=["sleep", "60"], wait=False)
        mesh.run_pod("default", "bystander", "tools", command=["sleep", "60"], wait=False)
        mesh.kubectl("delete", "pod", "-n", "default", "bystander", "--now", "--wait=false")
        eventually(lambda: count_tries(mesh, bank) >= tries + 5, "the client's sidecar's tries", timeout_s=120)
    finally:
        mesh.kubectl("scale", "deployment/touchmark-ca", "-n", SYSTEM_NAMESPACE, "--replicas=1")
        mesh.cluster.wait_for_rollout("deployment/touchmark-ca", namespace=SYSTEM_NAMESPACE, timeout_s=120)
    # By itself the client's sidecar wouldn't ask for the CA for a while yet: what it knows of the Service gets old.
    mesh.kubectl("rollout", "restart", "deployment/web", "-n", bank.namespace)
    bank.wait_until_deployed()
    mesh.run_pod(bank.namespace, "late", "python", command=["sleep", "3600"], service_account="client")
    eventually(
        lambda: (
            mesh.kubectl.run(
                "exec", "-n", bank.namespace, "late", "-c", "app", "--", "python3", "-c", ASK, "http://web/"
            ).stdout
            == "200\n"
        ),
        "an answer for a pod that came after the CA",
    )
    eventually(
        lambda: len(mesh.kubectl.get("pods", "-n", bank.namespace, "-l", "app=web")["items"]) == 1, "the old pod's end"
    )
    asked = len(bank.requests())
    eventually(lambda: len(bank.requests()) >= asked + 20, "requests afterwards")
    bank.expect_no_failure_since(before)


def count_tries(mesh: Mesh, market: Market) -> int:
    """How often the client's sidecar has tried in vain to open its stream again."""
    return mesh.sidecar_log(market.namespace, "client-0").count('"ca_stream_not_resumed"')
