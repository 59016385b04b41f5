"""Who is in the mesh is asked of the API server, which knows it without a CA."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from cli.cluster.connection import Cluster, connect
from cli.cluster.faults import ForbiddenError
from cli.cluster.installation.members import group, list_laggards, list_members, read_modes
from shared.model.policy.rules import Mode
from tests.cli.fake_api import FakeAPI, make_status
from tests.cli.object_store import ObjectStore, add_member, open_store

POLICIES = "/apis/touchmark.dev/v1alpha1"


@pytest.fixture
def store(api: FakeAPI) -> ObjectStore:
    return open_store(api)


@pytest.fixture
async def cluster(api: FakeAPI) -> AsyncIterator[Cluster]:
    async with connect(str(api.kubeconfig)) as connected:
        yield connected


async def test_pods_with_a_sidecar_that_isn_t_over_are_members(store: ObjectStore, cluster: Cluster) -> None:
    add_member(store, "shop", "web")
    add_member(store, "shop", "old", image="touchmark/sidecar:0.1.0")
    add_member(store, "bank", "done")
    store.objects["/api/v1/namespaces/bank/pods/done"]["status"]["phase"] = "Succeeded"
    store.objects["/api/v1/namespaces/bank/pods/bare"] = {"metadata": {"name": "bare", "namespace": "bank"}}
    members = await list_members(cluster)
    assert group(members) == {"shop": ["web", "old"]}
    assert list_laggards(members, ("touchmark/sidecar:0.2.0", "touchmark/sidecar:0.1.0")) == {"shop": ["old"]}
    assert list_laggards(members, ()) == {}


async def test_modes_are_those_of_the_policies(store: ObjectStore, cluster: Cluster) -> None:
    for namespace, spec in (
        ("shop", {"mode": "explicit"}),
        ("bank", {"mode": "permissive"}),
        ("other", {"workloadModes": {"web": "permissive", "db": "explicit"}}),
    ):
        metadata = {"name": "default", "namespace": namespace}
        store.objects[f"{POLICIES}/namespaces/{namespace}/meshpolicies/default"] = {"metadata": metadata, "spec": spec}
    draft = {"metadata": {"name": "draft", "namespace": "bank"}, "spec": {"draft": True, "mode": "explicit"}}
    store.objects[f"{POLICIES}/namespaces/bank/meshpolicies/draft"] = draft
    assert await read_modes(cluster) == ({"shop": Mode.EXPLICIT}, {"other": ["db"]})


async def test_without_definitions_there_is_no_mode_and_without_a_right_an_error(
    store: ObjectStore, cluster: Cluster
) -> None:
    store.missing.add("meshpolicies")
    assert await read_modes(cluster) == ({}, {})
    store.refused[f"GET {POLICIES}/meshpolicies"] = make_status(403, "Forbidden", "you cannot list it")
    with pytest.raises(ForbiddenError):
        await read_modes(cluster)
