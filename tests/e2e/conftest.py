"""Fixtures of the end-to-end tests: one mesh for the session, clean for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.harness import proofs
from tests.e2e.harness.commands import Operator
from tests.e2e.harness.mesh import Mesh
from tests.e2e.harness.shop import Bank, Shop
from tests.e2e.harness.till import Till, open_till


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "proves(*reasons): the test sees these reason codes in records")
    config.addinivalue_line(
        "markers", "fixes(*reasons): it sees them, runs the command that changes it, and gets through"
    )


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """The network and a running CA."""
    mesh = Mesh(tmp_path_factory.mktemp("mesh"))
    try:
        mesh.start_ca()
        yield mesh
    finally:
        mesh.close()


@pytest.fixture
def operator(mesh: Mesh) -> Operator:
    """Whoever types commands."""
    return Operator(mesh)


@pytest.fixture(scope="session")
def whole_shop(mesh: Mesh) -> Shop:
    """Client and server with their sidecars, and approved programs."""
    return Shop(mesh)


@pytest.fixture
def shop(whole_shop: Shop, mesh: Mesh) -> Iterator[Shop]:
    """The shop in permissive mode without rules; programs that the test starts end with it."""
    whole_shop.reset()
    whole_shop.skip_logs()
    try:
        yield whole_shop
    finally:
        mesh.end_actors()


@pytest.fixture(scope="session")
def whole_till(mesh: Mesh) -> Till:
    """A sidecar with mTLS ports, and a partner of another trust domain."""
    return open_till(mesh)


@pytest.fixture
def till(whole_till: Till, shop: Shop) -> Till:
    """The till, whose program echoes on the served port; rules and programs end with the test."""
    del shop
    assert whole_till.serve("echo") == "listening"
    return whole_till


@pytest.fixture(autouse=True)
def _proofs(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test claims to prove it must have seen."""
    proofs.forget()
    yield
    report = getattr(request.node, "call_report", None)
    if report is not None and report.passed:
        unproven = proofs.find_unproven(request.node)
        assert not unproven, f"claimed, but not seen in any record: {sorted(unproven)}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if call.when == "call":
        item.call_report = report  # type: ignore[attr-defined]  # Read by the fixture above.
    return report


@pytest.fixture(scope="session")
def bank(mesh: Mesh) -> Bank:
    """A second namespace, permissive."""
    return Bank(mesh)
