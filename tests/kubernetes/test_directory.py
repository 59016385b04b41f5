"""The directory follows a real API server: pods, RunningCA and their slices, told to those who watch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ca.runtime.compose import RunningCA
from shared.model.wire.messages import DirectoryEntry, Lookup, ServiceEntry, ServicePort
from tests.ca.kubernetes.faked_cluster import cluster_of
from tests.ca.running import FakeSidecar, eventually
from tests.kubernetes.cluster_objects import Objects, make_ca_kubeconfig, running_ca_in_cluster
from tests.kubernetes.harness.api_server import ApiServer

HTTP = [{"name": "http", "port": 80, "targetPort": "http"}]
BACKEND = [{"name": "http", "port": 8080, "protocol": "TCP"}]


@pytest.fixture(scope="module")
def kubeconfig(api_server: ApiServer) -> Path:
    return make_ca_kubeconfig(api_server)


@pytest.fixture
async def services(tmp_path: Path, kubeconfig: Path) -> AsyncIterator[RunningCA]:
    async with running_ca_in_cluster(tmp_path, kubeconfig) as running:
        yield running


@pytest.fixture
async def objects(api_server: ApiServer, namespace: str) -> AsyncIterator[Objects]:
    async with Objects.of(api_server, namespace) as made:
        yield made


@pytest.fixture
async def watcher(services: RunningCA) -> AsyncIterator[FakeSidecar]:
    async with FakeSidecar(services) as sidecar:
        await sidecar.enrol("watcher", workload="shop/watcher")
        yield sidecar


async def look(watcher: FakeSidecar, address: str) -> DirectoryEntry:
    await watcher.send(Lookup(address=address))
    return await watcher.expect(DirectoryEntry)


def ready(address: str, **conditions: bool) -> dict[str, Any]:
    return {"addresses": [address], "conditions": {"ready": True, **conditions}}


async def test_a_pod_s_whole_life_is_told(watcher: FakeSidecar, objects: Objects, namespace: str) -> None:
    assert (await look(watcher, "198.18.0.20")).namespace == ""
    await objects.create_pod("web-0", "198.18.0.20")
    member = await watcher.expect(DirectoryEntry)
    assert (member.namespace, member.service_account, member.tunnel_port) == (namespace, "web", 15008)
    # Another workload's pod gets the address while the old one is still being deleted.
    await objects.delete_pod("web-0", grace_s=300)
    await objects.create_pod("db-0", "198.18.0.20", account="db")
    assert (await watcher.expect(DirectoryEntry)).service_account == "db"
    await objects.delete_pod("web-0")
    await objects.delete_pod("db-0")
    assert await watcher.expect(DirectoryEntry) == DirectoryEntry(address="198.18.0.20")
    await objects.create_pod("plain", "198.18.0.20", injected=False)
    assert await look(watcher, "198.18.0.20") == DirectoryEntry(address="198.18.0.20")


async def test_a_service_is_its_ready_endpoints(watcher: FakeSidecar, objects: Objects, namespace: str) -> None:
    affinity = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}}
    (address,) = await objects.create_service("web", HTTP, spec=affinity)
    # The CA may not have heard of it yet: then the second answer is the push.
    entry = await look(watcher, address)
    if entry.service is None:
        entry = await watcher.expect(DirectoryEntry)
    assert entry.service == ServiceEntry(namespace=namespace, name="web", affinity_s=60, ports=(ServicePort(port=80),))
    await objects.put_slice("web-a", "web", BACKEND, [ready("198.18.0.3"), ready("198.18.0.2")])
    entry = await watcher.expect(DirectoryEntry)
    assert entry.service is not None
    assert entry.service.ports == (ServicePort(port=80, endpoints=(("198.18.0.2", 8080), ("198.18.0.3", 8080))),)
    await objects.put_slice("web-b", "web", BACKEND, [ready("198.18.0.9", ready=False, serving=True, terminating=True)])
    await objects.put_slice("web-a", "web", BACKEND, [ready("198.18.0.3", ready=False), ready("198.18.0.2")])
    assert (await expect_endpoints(watcher, 1)) == (("198.18.0.2", 8080),)
    await objects.client.delete(objects.path("services", "web"))
    assert await watcher.expect(DirectoryEntry) == DirectoryEntry(address=address)


async def expect_endpoints(watcher: FakeSidecar, count: int) -> tuple[tuple[str, int], ...]:
    """Return the endpoints of the Service's one port once there are so many; what comes before is passed over."""
    while True:
        entry = await watcher.expect(DirectoryEntry)
        assert entry.service is not None
        if len(entry.service.ports[0].endpoints) == count:
            return entry.service.ports[0].endpoints


async def test_headless_and_external_services_and_others_ports_are_not_there(
    services: RunningCA, objects: Objects
) -> None:
    assert await objects.create_service("headless", HTTP, spec={"clusterIP": "None"}) == ["None"]
    body = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "out"},
        "spec": {"type": "ExternalName", "externalName": "example.test"},
    }
    await objects.client.post(objects.path("services"), body, dict)
    (address,) = await objects.create_service(
        "dns", [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    )
    await objects.put_slice(
        "dns-a",
        "dns",
        [{"name": "dns", "port": 5353, "protocol": "UDP"}, {"name": "dns-tcp", "port": 5354, "protocol": "TCP"}],
        [ready("198.18.0.2")],
    )

    def endpoints() -> list[tuple[int, tuple[tuple[str, int], ...]]]:
        service = services.hub.directory.get(address).service
        return [(port.port, port.endpoints) for port in service.ports] if service is not None else []

    await eventually(lambda: endpoints() == [(53, (("198.18.0.2", 5354),))])


async def test_the_namespace_s_label_counts(services: RunningCA, objects: Objects, namespace: str) -> None:
    namespaces = cluster_of(services).namespaces
    await eventually(lambda: namespace in namespaces)
    assert not namespaces.is_labelled(namespace)
    body = {"metadata": {"labels": {"touchmark.dev/inject": "true"}}}
    await objects.client.patch(f"/api/v1/namespaces/{namespace}", body, dict)
    await eventually(lambda: namespaces.is_labelled(namespace))
