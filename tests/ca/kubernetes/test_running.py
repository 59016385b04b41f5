"""The cluster's parts start and stop with the CA, whatever the API server does."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.model.errors import InputError
from tests.ca.kubernetes.faking import write_kubeconfig
from tests.ca.running import running_ca


async def test_a_ca_starts_and_stops_while_no_api_server_answers(tmp_path: Path) -> None:
    kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:1")
    options = {"kubernetes": True, "kubeconfig": kubeconfig, "sidecar_images": ("example.test/sidecar:1",)}
    async with running_ca(tmp_path, **options) as services:
        assert services.cluster is not None


async def test_without_any_configuration_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(InputError, match="service account"):
        async with running_ca(tmp_path, kubernetes=True, sidecar_images=("example.test/sidecar:1",)):
            pass
