"""The previous release as installed, upgraded by applying today's manifests as docs/how-to/kubernetes.md says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shared.model.kubernetes.contract import SIDECAR_CONTAINER, TRUST_CONFIG_MAP
from shared.model.version import VERSION
from tests.kubernetes.harness.cluster import Cluster
from tests.kubernetes.harness.node import Node
from tests.kubernetes.harness.prepared_command import PreparedCommand
from tests.kubernetes.node.market import ASK_ON, ASK_ON_ONE_CONNECTION, Market
from tests.kubernetes.node.mesh import MANIFESTS, Mesh, clear, eventually
from tests.releases import previous

CLIENTS = (ASK_ON, ASK_ON_ONE_CONNECTION)
MEMBERS = 1 + len(CLIENTS)


@pytest.fixture(scope="module")
def mesh_of_before(node: Cluster, command: PreparedCommand, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """The previous release, by its own manifests and images, in the place of any other installation."""
    clear(node.kubectl)
    directory = tmp_path_factory.mktemp("previous")
    volume = node.directory / "ca-data-of-before" if isinstance(node, Node) else None
    mesh = Mesh(node, directory, command, volume=volume, manifests=previous.unpack(directory) / "manifests")
    mesh.install(ca="ca-previous", sidecars=("sidecar-previous",))
    yield mesh
    mesh.uninstall()


@pytest.fixture(scope="module")
def fair(mesh_of_before: Mesh) -> Iterator[Market]:
    """An explicit namespace of before, with requests over new connections and over an old one."""
    market = Market(mesh_of_before, "fair")
    market.open(*CLIENTS)
    yield market
    market.close()


def test_the_ca_is_upgraded_in_place_and_nobody_in_the_mesh_notices(mesh_of_before: Mesh, fair: Market) -> None:
    mesh = mesh_of_before
    assert mesh.ask("status")["versions"] == {
        "command": VERSION, "ca": previous.VERSION, "sidecars": {previous.VERSION: MEMBERS},
    }  # fmt: skip
    failed, trust = count_failed(fair), trusted(mesh)
    mesh.manifests = MANIFESTS
    mesh.install(sidecars=("sidecar", "sidecar-previous"))
    eventually(lambda: mesh.count_connected(fair.namespace) == MEMBERS, "the sidecars' return")
    status = mesh.ask("status")
    assert status["versions"] == {"command": VERSION, "ca": VERSION, "sidecars": {previous.VERSION: MEMBERS}}
    [row] = [row for row in status["namespaces"] if row["namespace"] == fair.namespace]
    assert (row["mode"], row["installed"]) == ("explicit", MEMBERS)
    assert trusted(mesh) == trust  # The same root: nothing was set up anew.
    mesh.touchmark("ca", "rotate", "issuer", timeout_s=120)
    asked = [len(fair.requests(client)) for client in range(len(CLIENTS))]
    eventually(
        lambda: all(len(fair.requests(client)) >= asked[client] + 20 for client in range(len(CLIENTS))),
        "requests under the new CA",
    )
    assert count_failed(fair) == failed


def test_afterwards_pods_that_are_made_again_have_todays_sidecar_and_no_request_fails(
    mesh_of_before: Mesh, fair: Market
) -> None:
    mesh = mesh_of_before
    before = fair.count_failed()
    mesh.kubectl("rollout", "restart", "deployment/web", "-n", fair.namespace)
    fair.wait_until_deployed()
    pods = "-n", fair.namespace, "-l", "app=web"
    eventually(lambda: len(mesh.kubectl.get("pods", *pods)["items"]) == 1, "the old pod's end")
    [pod] = mesh.kubectl.get("pods", *pods)["items"]
    [image] = [each["image"] for each in pod["spec"]["initContainers"] if each["name"] == SIDECAR_CONTAINER]
    assert image == mesh.cluster.image("sidecar")
    asked = len(fair.requests())
    eventually(lambda: len(fair.requests()) >= asked + 20, "requests to the new pod")
    assert fair.count_failed() == before, fair.requests()[-50:]


def count_failed(market: Market) -> int:
    return sum(market.count_failed(client) for client in range(len(CLIENTS)))


def trusted(mesh: Mesh) -> dict[str, str]:
    data: dict[str, str] = mesh.kubectl.get("configmap", TRUST_CONFIG_MAP, "-n", "fair")["data"]
    return data
