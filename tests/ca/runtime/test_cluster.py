"""The cluster's parts start and stop with the CA, whatever the API server does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ca.kubernetes.cluster.watches import DIRECTORY_WATCHES
from ca.runtime.cluster import list_ca_names
from ca.settings.configuration import Configuration
from shared.model.errors import InputError
from tests.ca.kubernetes.faked_cluster import FakeCluster, cluster_of, running_in_cluster
from tests.ca.kubernetes.faking import write_kubeconfig
from tests.ca.kubernetes.making import make_pod_json
from tests.ca.running import running_ca


async def test_a_ca_starts_and_stops_while_no_api_server_answers(tmp_path: Path) -> None:
    kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:1")
    options: dict[str, Any] = {
        "kubernetes": True,
        "kubeconfig": kubeconfig,
        "sidecar_images": ("example.test/sidecar:1",),
    }
    async with running_ca(tmp_path, **options) as services:
        assert not services.cluster.is_synced


async def test_without_any_configuration_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(InputError, match="service account"):
        async with running_ca(tmp_path, kubernetes=True, sidecar_images=("example.test/sidecar:1",)):
            pass


async def test_the_directory_is_whole_without_the_watches_of_further_parts(tmp_path: Path) -> None:
    async with running_in_cluster(tmp_path, FakeCluster()) as services:
        assert {"meshpolicies", "programs"}.isdisjoint(DIRECTORY_WATCHES)
        seen = [services.cluster.is_synced]
        for name in DIRECTORY_WATCHES:
            cluster_of(services).watches[name].is_synced.clear()
            seen.append(services.cluster.is_synced)
            cluster_of(services).watches[name].is_synced.set()
        assert seen == [True, *(False for _ in DIRECTORY_WATCHES)]


async def test_index_sizes_are_metrics(tmp_path: Path) -> None:
    cluster = FakeCluster()
    cluster.pods["web-0"] = make_pod_json("web-0", "198.18.0.2")
    async with running_in_cluster(tmp_path, cluster) as services:
        text = services.metrics.render().decode()
        assert 'touchmark_ca_watched_objects{watch="pods"} 1.0' in text
        assert 'touchmark_ca_watch_lists_total{watch="pods"} 1.0' in text


def test_a_sidecar_may_be_sent_to_the_ca_s_own_names_only(tmp_path: Path) -> None:
    configuration = Configuration(
        data_dir=tmp_path / "d", kek_file=tmp_path / "k", admin_socket=tmp_path / "s", names=("ca.example.test",)
    )
    names = list_ca_names(configuration)
    assert {"touchmark-ca.touchmark-system.svc", "ca.example.test"} <= names
    assert "127.0.0.1" not in names
    assert "touchmark-ca.mesh.svc" in list_ca_names(replace(configuration, namespace="mesh"))
