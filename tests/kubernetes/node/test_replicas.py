"""Several replicas of the CA on a PostgreSQL of the cluster, installed by ``touchmark install``, as the how-to says."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ca.kubernetes.api.client import ClusterClient
from shared.model.errors import TouchmarkError
from shared.model.kubernetes.contract import CA_SERVICE, LEASE, STREAM_PORT, SYSTEM_NAMESPACE
from tests.kubernetes.harness.cluster import Cluster
from tests.kubernetes.harness.kubectl import Kubectl
from tests.kubernetes.harness.node import Node
from tests.kubernetes.harness.pki import ClusterCA
from tests.kubernetes.harness.prepared_command import PreparedCommand
from tests.kubernetes.node.market import ASK_ON, ASK_ON_ONE_CONNECTION, PATIENT, Market
from tests.kubernetes.node.mesh import Mesh, clear, eventually

DATABASE = "database"
HOST = f"postgres.{DATABASE}.svc"
URL = f"postgresql://shop:shop@{HOST}:5432/shop?sslmode=verify-full&sslrootcert=/etc/touchmark/database/ca.crt"
REPLICAS = 3
CLIENTS = (ASK_ON, ASK_ON_ONE_CONNECTION)


@pytest.fixture(scope="module")
def replicas(node: Cluster, command: PreparedCommand, tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    """Touchmark installed with three replicas, in the place of any other installation."""
    kubectl = node.kubectl
    clear(kubectl)
    directory = tmp_path_factory.mktemp("replicas")
    authority = ClusterCA("database")
    start_database(node, authority)
    (directory / "url").write_text(URL, encoding="ascii")
    (directory / "ca.crt").write_bytes(authority.certificate)
    files = [f"--from-file={name}={directory / name}" for name in ("url", "ca.crt")]
    kubectl("create", "namespace", SYSTEM_NAMESPACE)
    kubectl("-n", SYSTEM_NAMESPACE, "create", "secret", "generic", "touchmark-database", *files)
    mesh = Mesh(node, directory, command)
    mesh.install_by_command("--database-secret", "touchmark-database", "--replicas", str(REPLICAS))
    return mesh


@pytest.fixture(scope="module")
def market(replicas: Mesh) -> Iterator[Market]:
    """Requests over new connections, and over an old one."""
    market = Market(replicas, "market")
    market.open(*CLIENTS)
    yield market
    market.close()


def start_database(node: Cluster, authority: ClusterCA) -> None:
    """Start the tests' PostgreSQL, outside the mesh, with TLS by a private authority."""
    node.create_namespace(DATABASE)
    pair = authority.issue("postgres", names=[HOST])
    data = {name: base64.b64encode(each).decode() for name, each in (("crt", pair.certificate), ("key", pair.key))}
    tls = "-c ssl=on -c ssl_cert_file=/tls/crt -c ssl_key_file=/tls/key"
    labels = {"app": "postgres"}
    container = {
        "name": "postgres",
        "image": node.image("postgres"),
        "imagePullPolicy": "Never",
        "command": ["postgres", *tls.split()],
        "volumeMounts": [{"name": "tls", "mountPath": "/tls", "readOnly": True}],
        "readinessProbe": {"tcpSocket": {"port": 5432}, **PATIENT},
    }
    spec = {
        "automountServiceAccountToken": False,
        "securityContext": {"fsGroup": 999},
        "terminationGracePeriodSeconds": 2,
        "containers": [container],
        "volumes": [{"name": "tls", "secret": {"secretName": "tls", "defaultMode": 0o440}}],
    }
    metadata = {"name": "postgres", "labels": labels}
    node.kubectl.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "tls"}, "data": data},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"selector": labels, "ports": [{"port": 5432}]},
        },
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec},
        namespace=DATABASE,
    )
    node.wait_for("condition=Ready", "pod/postgres", namespace=DATABASE)


# ---- Looking ---------------------------------------------------------------------------------------------------------
def list_replicas(kubectl: Kubectl) -> list[dict[str, Any]]:
    found = kubectl.get("pods", "-n", SYSTEM_NAMESPACE, "-l", "app.kubernetes.io/name=touchmark-ca")["items"]
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def find_leader(kubectl: Kubectl) -> str:
    """Who holds the Lease: the pod's name, and what tells its processes apart."""
    return str(kubectl.get("lease", LEASE, "-n", SYSTEM_NAMESPACE)["spec"].get("holderIdentity", ""))


def has_asked(market: Market, client: int, before: int) -> bool:
    return len(market.requests(client)) > before


@contextmanager
def going_on(market: Market) -> Iterator[None]:
    """Meanwhile requests must flow, and none may fail."""
    clients = range(len(CLIENTS))
    before = [(len(market.requests(client)), market.count_failed(client)) for client in clients]
    yield
    for client, (answered, failed) in zip(clients, before, strict=True):
        eventually(partial(has_asked, market, client, answered), "another request")
        assert market.count_failed(client) == failed, (client, market.requests(client)[-50:])


# ---- What a user sees ------------------------------------------------------------------------------------------------
def test_three_replicas_are_ready_and_one_of_them_leads(replicas: Mesh) -> None:
    names = [pod["metadata"]["name"] for pod in list_replicas(replicas.kubectl)]
    assert len(names) == REPLICAS
    leader = eventually(lambda: find_leader(replicas.kubectl), "a leader")
    assert leader.rpartition("_")[0] in names


def test_connections_are_those_of_all_replicas_sidecars(replicas: Mesh, market: Market) -> None:
    def are_all_seen() -> bool:
        answer = replicas.ask("connections")
        assert answer["silent"] == []
        sides = {(view["workload"], view["connection"]["direction"]) for view in answer["connections"]}
        sidecars = {view["sidecar"].rpartition(".")[0] for view in answer["connections"]}
        assert sides >= {("market/client", "egress"), ("market/web", "ingress")}
        return "client-1" in sidecars

    eventually(are_all_seen, "the lasting connections of both ends")
    assert replicas.ask("status")["sidecars_connected"] == 3


def test_the_leader_is_killed_and_another_one_goes_on(replicas: Mesh, market: Market, own_node: Node) -> None:
    kubectl, namespace = replicas.kubectl, market.namespace
    old = find_leader(kubectl)
    pod = old.rpartition("_")[0]
    with going_on(market):
        # No chance to give the Lease back, and no second life in the same pod.
        own_node.kill_container(SYSTEM_NAMESPACE, pod, "ca")
        kubectl("delete", "pod", "-n", SYSTEM_NAMESPACE, pod, "--now", "--wait=false")
        # Whoever serves goes on without a leader: the webhook answers, a new pod joins and gets its certificates.
        market.deploy("nginx", replicas=2)
        market.wait_until_deployed()
        new = eventually(lambda: find_leader(kubectl) not in ("", old) and find_leader(kubectl), "another leader")
        assert new.rpartition("_")[0] != pod
        eventually(lambda: replicas.ask("status")["sidecars_connected"] == 4, "all sidecars, on the others")
        # What only a leader does: objects come into force, and their status is written.
        replicas.touchmark("mode", namespace, "permissive", "--yes", "--timeout", "60")
        replicas.be_explicit(namespace)
        policy = kubectl.get("meshpolicy", "default", "-n", namespace)
        assert policy["status"]["mode"] == "explicit"
        assert policy["status"]["installed"] == policy["status"]["sidecars"] == 4


@pytest.mark.usefixtures("own_node")
def test_a_rolling_restart_is_noticed_by_nobody(replicas: Mesh, market: Market) -> None:
    """Neither by requests that flow, nor by pods that are created meanwhile and ask for injection.

    Nor by whoever dials the Service anew at each moment, as the API server and sidecars sometimes do.
    """
    replicas.cluster.wait_for_rollout("deployment/touchmark-ca", namespace=SYSTEM_NAMESPACE, timeout_s=120)
    before = {pod["metadata"]["uid"] for pod in list_replicas(replicas.kubectl)}
    pods, dials = creating_pods(replicas.cluster.admin, market.namespace), dialling(replicas.kubectl)
    with going_on(market), pods as outcomes, dials as faults:
        replicas.kubectl("rollout", "restart", "deployment/touchmark-ca", "-n", SYSTEM_NAMESPACE)
        replicas.cluster.wait_for_rollout("deployment/touchmark-ca", namespace=SYSTEM_NAMESPACE, timeout_s=120)
        assert not before & {pod["metadata"]["uid"] for pod in list_replicas(replicas.kubectl)}
    assert len(outcomes) > 10
    assert set(outcomes) == {""}
    assert faults == []


@contextmanager
def creating_pods(kubeconfig: Path, namespace: str) -> Iterator[list[str]]:
    """Create pods on trial all the time, through the webhook; give what went wrong with each, empty when nothing."""
    pod = {"metadata": {"name": "trial"}, "spec": {"containers": [{"name": "app", "image": "registry.example/app:1"}]}}
    outcomes: list[str] = []
    is_over = threading.Event()

    async def create() -> None:
        client = await ClusterClient.open(kubeconfig)
        while not is_over.is_set():
            try:
                path = f"/api/v1/namespaces/{namespace}/pods"
                answer = await client.ask("POST", path, query={"dryRun": "All"}, body=pod)
                outcomes.append("" if b"touchmark-sidecar" in answer else "not injected")
            except TouchmarkError as error:
                outcomes.append(error.message)
            await asyncio.sleep(0.1)
        await client.close()

    with in_thread(lambda: asyncio.run(create()), is_over):
        yield outcomes


@contextmanager
def in_thread(work: Callable[[], None], is_over: threading.Event) -> Iterator[None]:
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@contextmanager
def dialling(kubectl: Kubectl) -> Iterator[list[str]]:
    """Connect to the CA's Service tens of times a second; give what failed."""
    address = kubectl.get("service", CA_SERVICE, "-n", SYSTEM_NAMESPACE)["spec"]["clusterIP"]
    faults: list[str] = []
    is_over = threading.Event()

    def dial() -> None:
        while not is_over.wait(0.02):
            try:
                socket.create_connection((address, STREAM_PORT), timeout=5).close()
            except OSError as error:
                faults.append(str(error))

    with in_thread(dial, is_over):
        yield faults


def test_two_replicas_are_never_evicted_at_once(replicas: Mesh) -> None:
    """As a drained node would: the disruption budget lets the first one go, and nobody else until there is another."""
    kubectl = replicas.kubectl
    first, second, *_ = [pod["metadata"]["name"] for pod in list_replicas(kubectl)]
    assert evict(kubectl, first) == ""
    assert "disruption budget" in evict(kubectl, second)
    replicas.cluster.wait_for_rollout("deployment/touchmark-ca", namespace=SYSTEM_NAMESPACE, timeout_s=120)
    assert first not in [pod["metadata"]["name"] for pod in list_replicas(kubectl)]


def evict(kubectl: Kubectl, pod: str) -> str:
    """Evict a pod; return why not, empty when it was done."""
    metadata = {"name": pod, "namespace": SYSTEM_NAMESPACE}
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
    path = f"/api/v1/namespaces/{SYSTEM_NAMESPACE}/pods/{pod}/eviction"
    done = kubectl.run("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    return done.stderr if done.returncode else ""
