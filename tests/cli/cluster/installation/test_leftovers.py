"""A new installation says what it finds of an earlier one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from cli.cluster.connection import Cluster, connect
from cli.cluster.installation.leftovers import find_leftovers, is_foreign_namespace
from tests.cli.fake_api import FakeAPI
from tests.cli.object_store import ObjectStore, open_store

SYSTEM = "/api/v1/namespaces/touchmark-system"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
OURS = {"app.kubernetes.io/part-of": "touchmark"}


@pytest.fixture
def store(api: FakeAPI) -> ObjectStore:
    return open_store(api)


@pytest.fixture
async def cluster(api: FakeAPI) -> AsyncIterator[Cluster]:
    async with connect(str(api.kubeconfig)) as connected:
        yield connected


async def test_in_a_new_cluster_there_is_nothing(store: ObjectStore, cluster: Cluster) -> None:
    assert await find_leftovers(cluster, "touchmark-system", has_database=False) == []


async def test_policies_that_were_kept_are_counted(store: ObjectStore, cluster: Cluster) -> None:
    for plural in ("meshpolicies", "programs"):
        store.objects[f"{DEFINITIONS}/{plural}.touchmark.dev"] = {"metadata": {"name": plural}}
    store.objects["/apis/touchmark.dev/v1alpha1/namespaces/shop/meshpolicies/default"] = {"metadata": {}}
    [found] = await find_leftovers(cluster, "touchmark-system", has_database=False)
    assert (found.is_well, found.observation) == (True, "1 meshpolicies and 0 programs come into force again")


async def test_a_store_is_used_again_with_its_key_and_useless_without(store: ObjectStore, cluster: Cluster) -> None:
    store.objects[f"{SYSTEM}/persistentvolumeclaims/touchmark-ca"] = {"metadata": {"name": "touchmark-ca"}}
    [found] = await find_leftovers(cluster, "touchmark-system", has_database=False)
    assert not found.is_well
    assert found.is_optional, "nobody may have used it"
    assert "delete persistentvolumeclaim touchmark-ca" in found.hint
    store.objects[f"{SYSTEM}/secrets/touchmark-kek"] = {"metadata": {"name": "touchmark-kek"}}
    [found] = await find_leftovers(cluster, "touchmark-system", has_database=False)
    assert found.is_well
    [found] = await find_leftovers(cluster, "touchmark-system", has_database=True)
    assert found.subject == "key from before"


async def test_pods_of_others_would_be_cut_off(store: ObjectStore, cluster: Cluster) -> None:
    """The manifests' default-deny selects every pod of the namespace."""
    ca = {"name": "touchmark-ca-0", "namespace": "platform", "labels": {"app.kubernetes.io/name": "touchmark-ca"}}
    store.objects["/api/v1/namespaces/platform/pods/touchmark-ca-0"] = {"metadata": ca}
    assert await find_leftovers(cluster, "platform", has_database=False) == []
    other = {"name": "web-0", "namespace": "platform"}
    store.objects["/api/v1/namespaces/platform/pods/web-0"] = {"metadata": other}
    [found] = await find_leftovers(cluster, "platform", has_database=False)
    assert (found.is_well, found.is_optional) == (False, False)
    assert found.observation == "the NetworkPolicy default-deny would cut off web-0"


async def test_a_namespace_is_ours_by_its_label(store: ObjectStore, cluster: Cluster) -> None:
    assert not await is_foreign_namespace(cluster, "touchmark-system")
    store.objects[SYSTEM] = {"metadata": {"name": "touchmark-system", "labels": OURS}}
    assert not await is_foreign_namespace(cluster, "touchmark-system")
    store.objects[SYSTEM] = {"metadata": {"name": "touchmark-system"}}
    assert await is_foreign_namespace(cluster, "touchmark-system")
