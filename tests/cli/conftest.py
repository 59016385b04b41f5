"""A fake CA whose socket the commands find in their environment; and the same one in a fake cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.fake_api import CA_PODS, FakeAPI, make_pod, running_api
from tests.cli.fake_ca import FakeCA, running_ca


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may work with a cluster: no test finds it."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))
    monkeypatch.delenv("TOUCHMARK_KUBERNETES", raising=False)


@pytest.fixture
def ca(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCA]:
    with running_ca(tmp_path) as fake:
        monkeypatch.setenv("TOUCHMARK_ADMIN_SOCKET", str(fake.socket))
        yield fake


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAPI]:
    with running_api(tmp_path) as fake:
        monkeypatch.setenv("KUBECONFIG", str(fake.kubeconfig))
        yield fake


@pytest.fixture
def cluster_ca(api: FakeAPI, tmp_path: Path) -> Iterator[FakeCA]:
    """A CA whose admin API is only reached through a port-forward to its pod."""
    with running_ca(tmp_path) as fake:
        api.answers[CA_PODS] = {"items": [make_pod("touchmark-ca-0")]}
        api.forward_to = fake.socket
        yield fake
