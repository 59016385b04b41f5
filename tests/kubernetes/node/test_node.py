"""The node level's own parts: a real node that runs pods, services, names, tokens and native sidecars."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from tests.kubernetes.harness import pki
from tests.kubernetes.harness.cluster import Cluster
from tests.kubernetes.harness.node import Node
from tests.kubernetes.node.mesh import eventually

# So long only where the machine is very busy.
CURL = ("curl", "-s", "-m30")


def web(cluster: Cluster) -> list[dict[str, Any]]:
    """Two replicas that answer with their name, behind a service; they hold a token for the audience ``ca``."""
    serve = "mkdir /tmp/w && hostname > /tmp/w/index.html && echo serving && exec busybox httpd -f -p 8080 -h /tmp/w"
    token = {"serviceAccountToken": {"audience": "ca", "path": "token", "expirationSeconds": 600}}
    container = {
        "name": "web",
        "image": cluster.image("tools"),
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", serve],
        "readinessProbe": {"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1},
        "volumeMounts": [{"name": "token", "mountPath": "/var/run/ca"}],
        "resources": {"limits": {"memory": "64Mi", "cpu": "500m"}},
    }
    pod = {
        "terminationGracePeriodSeconds": 1,
        "containers": [container],
        "volumes": [{"name": "token", "projected": {"sources": [token]}}],
    }
    labels = {"app": "web"}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    return [deployment, service]


@pytest.fixture(scope="module")
def namespace(make_namespace: Callable[[], str]) -> str:
    """One for all tests of this module, which only look."""
    return make_namespace()


@pytest.fixture(scope="module")
def shop(node: Cluster, namespace: str) -> list[dict[str, Any]]:
    """The pods of `web`, ready."""
    node.kubectl.apply(*web(node), namespace=namespace)
    node.wait_for_rollout("deployment/web", namespace=namespace)
    found: list[dict[str, Any]] = node.kubectl.get("pods", "-n", namespace, "-l", "app=web")["items"]
    pods = sorted(found, key=lambda pod: str(pod["metadata"]["name"]))
    # Ready pods are a Service's endpoints some time later, when kube-proxy has heard of them.
    asking = ("exec", "-n", namespace, name(pods[0]), "--", *CURL, f"http://web.{namespace}.svc.cluster.local/")
    eventually(lambda: node.kubectl.run(*asking).returncode == 0, "the Service")
    return pods


def name(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["name"])


def test_pods_run_and_reach_one_another(node: Cluster, namespace: str, shop: list[dict[str, Any]]) -> None:
    first, second = shop
    assert "serving" in node.logs(namespace, name(first))
    answer = node.execute(namespace, name(first), *CURL, f"http://{second['status']['podIP']}:8080/")
    assert answer.strip() == name(second)


def test_a_service_is_reached_by_name_from_a_pod_also_by_its_own_backends(
    node: Cluster, namespace: str, shop: list[dict[str, Any]]
) -> None:
    """DNS, kube-proxy, and a pod that is sent to itself (the bridge's hairpin)."""
    command = f"for i in 1 2 3 4 5 6 7 8; do {' '.join(CURL)} http://web.{namespace}.svc.cluster.local/ || exit 1; done"
    answers = node.execute(namespace, name(shop[0]), "sh", "-c", command).split()
    assert len(answers) == 8
    assert set(answers) <= {name(pod) for pod in shop}


def test_a_process_on_the_node_reaches_a_service(own_node: Node, namespace: str, shop: list[dict[str, Any]]) -> None:
    """The tests stand in the node's network namespace."""
    address = own_node.kubectl.get("service", "web", "-n", namespace)["spec"]["clusterIP"]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{address}/", timeout=30) as answer:
        assert answer.read().decode().strip() in {name(pod) for pod in shop}


def test_a_pod_reaches_the_api_server(node: Cluster, namespace: str, shop: list[dict[str, Any]]) -> None:
    """With the CA's certificate of its service account, without rights: 403."""
    account = "/var/run/secrets/kubernetes.io/serviceaccount"
    command = f"curl -s -m30 -o /dev/null -w '%{{http_code}}' --cacert {account}/ca.crt"
    command += f' -H "Authorization: Bearer $(cat {account}/token)"'
    command += " https://kubernetes.default.svc.cluster.local/api/v1/pods"
    assert node.execute(namespace, name(shop[0]), "sh", "-c", command) == "403"


def test_a_projected_token_proves_pod_and_node(node: Cluster, namespace: str, shop: list[dict[str, Any]]) -> None:
    token = node.execute(namespace, name(shop[0]), "cat", "/var/run/ca/token").strip()
    assert pki.read_claims(token)["aud"] == ["ca"]
    status = node.review_token(token, "ca")
    assert status["authenticated"] is True
    extra = status["user"]["extra"]
    assert extra["authentication.kubernetes.io/pod-name"] == [name(shop[0])]
    assert extra["authentication.kubernetes.io/pod-uid"] == [shop[0]["metadata"]["uid"]]
    assert extra["authentication.kubernetes.io/node-name"] == [shop[0]["spec"]["nodeName"]]


def test_a_memory_limit_is_in_force(own_node: Node, namespace: str, shop: list[dict[str, Any]]) -> None:
    files = "/sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max"  # Version 1, version 2.
    limits = own_node.execute(namespace, name(shop[0]), "sh", "-c", f"cat {files} 2>/dev/null; true")
    assert str(64 << 20) in limits.split()


@pytest.mark.usefixtures("shop")
def test_a_native_sidecar_stands_between_the_redirect_and_the_application(node: Cluster, namespace: str) -> None:
    """The order that injection relies on: an init container with NET_ADMIN redirects by nftables, a native sidecar
    under a UID of its own takes the traffic and is spared itself, the process namespace is shared with pause first."""
    rules = (
        "nft add table ip mesh && nft add chain ip mesh out '{ type nat hook output priority -100; }' &&"
        " nft add rule ip mesh out meta skuid != 1337 tcp dport 80 redirect to :15001"
    )
    serve = "mkdir /tmp/w && echo from-sidecar > /tmp/w/index.html && exec busybox httpd -f -p 15001 -h /tmp/w"
    common: dict[str, Any] = {"image": node.image("tools"), "imagePullPolicy": "Never"}
    redirect = common | {"name": "redirect", "command": ["sh", "-c", rules]}
    redirect["securityContext"] = {"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}}
    sidecar = common | {"name": "sidecar", "restartPolicy": "Always", "command": ["sh", "-c", serve]}
    sidecar["securityContext"] = {"runAsUser": 1337}
    sidecar["startupProbe"] = {"tcpSocket": {"port": 15001}, "periodSeconds": 1}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "mesh"},
        "spec": {
            "shareProcessNamespace": True,
            "terminationGracePeriodSeconds": 1,
            "initContainers": [redirect, sidecar],
            "containers": [common | {"name": "app", "command": ["sleep", "infinity"]}],
        },
    }
    node.kubectl.apply(pod, namespace=namespace)
    node.wait_for("condition=Ready", "pod/mesh", namespace=namespace)
    get = ["curl", "-s", "-m5", "http://web/"]
    assert node.execute(namespace, "mesh", *get, container="app").strip() == "from-sidecar"
    assert node.execute(namespace, "mesh", *get, container="sidecar").startswith("web-")
    status = node.kubectl.get("pod", "mesh", "-n", namespace)["status"]
    assert status["initContainerStatuses"][1]["started"] is True
    processes = node.execute(namespace, "mesh", "ps", "-eo", "pid,user,args", container="app")
    assert "/pause" in processes.splitlines()[1]
    assert "httpd -f -p 15001" in processes
