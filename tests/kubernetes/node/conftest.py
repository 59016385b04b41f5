"""Fixtures of the node level: one node for the session, ours or the one that ``KUBECONFIG`` names."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.kubernetes.harness.cluster import Cluster
from tests.kubernetes.harness.node import CONFIG_MAP_S, Node
from tests.kubernetes.harness.prepared_command import PreparedCommand
from tests.kubernetes.node.mesh import Mesh

# They take the installation away that the others share.
_LAST = ("test_uninstall.py", "test_upgrade_in_place.py", "test_replicas.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _LAST.index(item.path.name) + 1 if item.path.name in _LAST else 0)


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster. The components' logs of our own node are kept beside the run's other temporary files."""
    given = os.environ.get("KUBECONFIG")
    if given:
        yield Cluster(Path(given))
        return
    node = Node()
    try:
        node.start()
        yield node
    finally:
        node.save_logs(tmp_path_factory.mktemp("node-logs"))
        node.stop()


@pytest.fixture(scope="session")
def command() -> Iterator[PreparedCommand]:
    """``touchmark``, loaded once for all its runs."""
    with contextlib.closing(PreparedCommand()) as command:
        yield command


@pytest.fixture(scope="session")
def mesh(node: Cluster, command: PreparedCommand, tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    """Touchmark installed on it, as its documentation tells a user to."""
    volume = node.directory / "ca-data" if isinstance(node, Node) else None
    # What --trust-delay-s is for: this kubelet is quicker than others.
    options = [f"--trust-delay-s={CONFIG_MAP_S}"] if isinstance(node, Node) else []
    mesh = Mesh(node, tmp_path_factory.mktemp("mesh"), command, volume=volume, options=options)
    mesh.install()
    return mesh


@pytest.fixture(scope="session")
def own_node(node: Cluster) -> Node:
    """For tests that stop parts of the node or look into it from outside: not possible in somebody else's cluster."""
    if not isinstance(node, Node):
        pytest.skip("needs a node of the test's own, and KUBECONFIG names another")
    return node


@pytest.fixture(scope="module")
def make_namespace(node: Cluster) -> Iterator[Callable[..., str]]:
    """``make_namespace(labels={…})``: new namespaces, deleted after the module's tests without waiting for it."""
    names: list[str] = []

    def make(*, labels: Mapping[str, str] | None = None) -> str:
        name = f"test-{uuid.uuid4().hex[:8]}"
        node.create_namespace(name, labels=labels)
        names.append(name)
        return name

    yield make
    for name in names:
        node.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def namespace(node: Cluster) -> Iterator[str]:
    """A new namespace, deleted afterwards without waiting for it."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    node.create_namespace(name)
    yield name
    node.kubectl("delete", "namespace", name, "--wait=false")
