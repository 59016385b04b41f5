"""Fixtures of the Kubernetes levels. Everything here is marked `kubernetes`, and below `node/` instead `node`."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ca.unhurried import unhurry
from tests.kubernetes.harness.api_server import ApiServer

_HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # A test below node/ has only the second mark: `make test-kubernetes` needs no root.
        if _HERE / "node" in item.path.parents:
            item.add_marker(pytest.mark.node)
        elif _HERE in item.path.parents:
            item.add_marker(pytest.mark.kubernetes)


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, nobody is given up by a CA in this process."""
    unhurry(monkeypatch)


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """One API server for the session; whoever restarts it leaves it running, whoever wants another asks below."""
    server = ApiServer(tmp_path_factory.mktemp("api-server"))
    try:
        server.start()
        yield server
    finally:
        server.stop(kill=True)


@pytest.fixture(scope="module")
def make_api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., ApiServer]]:
    """Start further API servers: ``make_api_server(arguments=[…])``; they end with the module's tests."""
    servers: list[ApiServer] = []

    def make(**options: object) -> ApiServer:
        server = ApiServer(tmp_path_factory.mktemp("api-server"), **options)  # type: ignore[arg-type]  # Its own options.
        servers.append(server)
        server.start()
        return server

    try:
        yield make
    finally:
        for server in servers:
            server.stop(kill=True)


@pytest.fixture
def namespace(api_server: ApiServer) -> str:
    """A new namespace with a ``default`` service account."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    api_server.create_namespace(name)
    return name
