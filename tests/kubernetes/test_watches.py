"""The CA's watches against a real API server that restarts, crashes, stays away and forgets old versions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from ca.kubernetes.api.watch import Watch
from ca.runtime.compose import RunningCA
from shared.model.kubernetes.contract import name_instance
from shared.model.wire.admin import ClusterStatus, Health
from shared.model.wire.messages import CertificateIssued, Refusal, Welcome
from tests.ca.api.stream.test_pods import issue
from tests.ca.kubernetes.faked_cluster import cluster_of, enrol_pod
from tests.ca.running import Admin, FakeSidecar, eventually
from tests.kubernetes.cluster_objects import Objects, make_ca_kubeconfig, running_ca_in_cluster
from tests.kubernetes.harness.api_server import ApiServer

ADDRESS = "198.18.0.2"


@pytest.fixture(scope="module")
def server(make_api_server: Callable[..., ApiServer]) -> ApiServer:
    """An API server of this module's own: it goes away now and then."""
    return make_api_server()


@pytest.fixture(scope="module")
def kubeconfig(server: ApiServer) -> Path:
    return make_ca_kubeconfig(server)


@pytest.fixture
async def services(tmp_path: Path, kubeconfig: Path) -> AsyncIterator[RunningCA]:
    async with running_ca_in_cluster(tmp_path, kubeconfig) as running:
        yield running


@pytest.fixture
async def objects(server: ApiServer) -> AsyncIterator[Objects]:
    async with Objects.of(server, "default") as made:
        yield made


@pytest.mark.parametrize("kill", [False, True], ids=["restart", "crash"])
async def test_what_happens_after_a_restart_is_seen(
    services: RunningCA, objects: Objects, server: ApiServer, kill: bool
) -> None:
    cluster = cluster_of(services)
    uid = await objects.create_pod("web-0", ADDRESS)
    await eventually(lambda: services.hub.directory.get(ADDRESS).service_account == "web")
    server.restart(kill=kill)  # On this thread, which stops everything here: the CA sees it afterwards.
    await objects.create_pod("web-1", "198.18.0.3")
    await objects.delete_pod("web-0")
    await eventually(lambda: services.hub.directory.get("198.18.0.3").service_account == "web", deadline_s=60)
    await eventually(lambda: cluster.pods.get(uid) is None, deadline_s=60)
    await eventually(lambda: not any(watch.fault for watch in cluster.watches.values()), deadline_s=60)
    assert all(watch.restarts >= 1 for watch in cluster.watches.values())


async def test_a_version_that_the_server_no_longer_has_means_listing_anew(
    services: RunningCA, objects: Objects, server: ApiServer
) -> None:
    cluster = cluster_of(services)
    watch: Watch[object, object] = cluster.watches["pods"]
    gone = await objects.create_pod("web-0", ADDRESS)
    await eventually(lambda: services.hub.directory.get(ADDRESS).service_account == "web")
    lists = watch.lists
    watch._version = "1"  # As if it had been away for so long; the restarted server keeps no history before its start.
    server.restart()
    await objects.delete_pod("web-0")
    await eventually(lambda: cluster.pods.get(gone) is None, deadline_s=60)
    await eventually(lambda: not watch.fault, deadline_s=60)
    assert watch.lists == lists + 1


async def test_while_the_server_is_away_the_mesh_goes_on_and_nobody_joins(
    services: RunningCA, objects: Objects, server: ApiServer
) -> None:
    uid = await objects.create_pod("web-0", ADDRESS)
    token = await objects.request_token("web", "web-0", uid)
    instance = name_instance("web-0", uid)
    async with FakeSidecar(services) as sidecar, Admin(services) as admin:
        assert isinstance(await enrol_pod(sidecar, token, instance, ADDRESS), Welcome)
        server.stop_server(kill=True)
        try:
            await eventually(lambda: all(watch.fault for watch in cluster_of(services).watches.values()))
            assert isinstance(await issue(sidecar), CertificateIssued)
            assert services.hub.directory.get(ADDRESS).service_account == "web"
            async with FakeSidecar(services) as other:
                refusal = await enrol_pod(other, token, instance, ADDRESS)
                assert isinstance(refusal, Refusal) and refusal.code == "unavailable"
            status = await admin.get("/v1/cluster", ClusterStatus)
            assert status.server_version == ""
            of_directory = [watch for watch in status.watches if watch.name in cluster_of(services).watches]
            assert len(of_directory) == 4 and all(watch.is_synced and watch.fault for watch in of_directory)
            assert (await admin.get("/readyz", Health)).checks["kubernetes"] == "ok"
        finally:
            server.start()
        await eventually(lambda: not any(w.fault for w in cluster_of(services).watches.values()), deadline_s=60)
        async with FakeSidecar(services) as again:
            assert isinstance(await enrol_pod(again, token, instance, ADDRESS), Welcome)


async def test_a_list_of_many_pages_is_whole(
    tmp_path: Path, kubeconfig: Path, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ca.kubernetes.api.watch.PAGE", 7)
    uids = await asyncio.gather(*(objects.create_pod(f"many-{number}", f"198.18.3.{number}") for number in range(40)))
    async with running_ca_in_cluster(tmp_path, kubeconfig) as services:
        pods = cluster_of(services).pods
        assert {pod.uid for pod in pods} >= set(uids)
        assert services.hub.directory.get("198.18.3.39").service_account == "web"


async def test_pods_that_ended_are_not_even_listed(tmp_path: Path, kubeconfig: Path, objects: Objects) -> None:
    ended = await objects.create_pod("job-0", ADDRESS)
    await objects.set_status("job-0", ADDRESS, phase="Succeeded")
    running = await objects.create_pod("web-0", "198.18.0.3")
    async with running_ca_in_cluster(tmp_path, kubeconfig) as services:
        pods = cluster_of(services).pods
        assert pods.get(ended) is None
        assert pods.get(running) is not None
        await objects.set_status("web-0", "198.18.0.3", phase="Failed")
        await eventually(lambda: pods.get(running) is None)
        assert services.hub.directory.get("198.18.0.3").namespace == ""
