"""Uninstalling deletes what is ours by its label; state and policies only when that is asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from cli.cluster.connection import Cluster, connect
from cli.cluster.installation.bundle import load_objects
from cli.cluster.installation.choices import Choices
from cli.cluster.installation.planning import apply
from cli.cluster.installation.removal import Removal, plan_removal, remove, wait_gone
from cli.cluster.installation.rendering import render
from shared.model.errors import ConflictError, UnavailableError
from tests.cli.fake_api import FakeAPI, make_status
from tests.cli.object_store import ObjectStore, open_store

SYSTEM = "/api/v1/namespaces/touchmark-system"
DEPLOYMENT = "/apis/apps/v1/namespaces/touchmark-system/deployments/touchmark-ca"
KEPT = {"CustomResourceDefinition", "Namespace", "PersistentVolumeClaim", "Secret"}


@pytest.fixture
async def cluster(api: FakeAPI) -> AsyncIterator[Cluster]:
    async with connect(str(api.kubeconfig)) as connected:
        yield connected


@pytest.fixture
async def store(api: FakeAPI, cluster: Cluster) -> ObjectStore:
    """An installation, with what its CA has made, and a neighbour's objects."""
    store = open_store(api)
    await apply(cluster, render(load_objects(has_database=False), Choices()))
    make(store, f"{SYSTEM}/secrets/touchmark-kek", "Secret", "touchmark-kek")
    make(store, "/apis/coordination.k8s.io/v1/namespaces/touchmark-system/leases/touchmark-ca", "Lease", "touchmark-ca")
    make(store, "/apis/rbac.authorization.k8s.io/v1/clusterroles/view", "ClusterRole", "view")
    make(
        store,
        "/api/v1/namespaces/shop/configmaps/own",
        "ConfigMap",
        "own",
        **{"app.kubernetes.io/part-of": "touchmark"},
    )
    return store


def make(store: ObjectStore, path: str, kind: str, name: str, **labels: str) -> None:
    store.objects[path] = {"kind": kind, "metadata": {"name": name, "labels": labels}}


async def plan(cluster: Cluster, *, data: bool = False, definitions: bool = False, **more: bool) -> Removal:
    return await plan_removal(cluster, "touchmark-system", deletes_data=data, deletes_definitions=definitions, **more)


async def test_what_others_own_stays_and_so_do_state_and_policies(store: ObjectStore, cluster: Cluster) -> None:
    removal = await plan(cluster)
    assert {each.kind for each in removal.kept} == KEPT
    assert removal.deleted[0].kind == "MutatingWebhookConfiguration", "else pods are refused while it goes on"
    await remove(cluster, removal.deleted)
    left = {path for path, each in store.objects.items() if each.get("kind")}
    assert {store.objects[path]["kind"] for path in left} == KEPT | {"ClusterRole", "ConfigMap"}
    assert "/apis/rbac.authorization.k8s.io/v1/clusterroles/view" in left
    assert "/api/v1/namespaces/shop/configmaps/own" in left, "another namespace's label is its own matter"


async def test_all_of_it_goes_when_that_is_asked_for(store: ObjectStore, cluster: Cluster) -> None:
    removal = await plan(cluster, data=True, definitions=True)
    assert (removal.kept, removal.foreign) == ((), ())
    assert str(removal.deleted[-1]) == "Namespace touchmark-system"
    await remove(cluster, removal.deleted)
    assert store.list_kinds() == ["ClusterRole", "ConfigMap", "None"], "view, and the neighbour's; a node and storage"
    await remove(cluster, removal.deleted)  # What is gone is gone.


async def test_policies_go_by_their_own_option(store: ObjectStore, cluster: Cluster) -> None:
    removal = await plan(cluster, definitions=True)
    assert {each.kind for each in removal.kept} == KEPT - {"CustomResourceDefinition"}


async def test_a_namespace_with_something_else_in_it_stays(store: ObjectStore, cluster: Cluster) -> None:
    make(store, f"{SYSTEM}/secrets/database", "Secret", "database")
    make(store, f"{SYSTEM}/configmaps/kube-root-ca.crt", "ConfigMap", "kube-root-ca.crt")
    make(store, "/apis/example.org/v1/namespaces/touchmark-system/widgets/w", "Widget", "w")
    removal = await plan(cluster, data=True)
    assert removal.foreign == ("Secret database", "Widget w")
    assert "Namespace" in {each.kind for each in removal.kept}
    assert "PersistentVolumeClaim" in {each.kind for each in removal.deleted}


async def test_a_namespace_of_which_not_everything_can_be_seen_stays(store: ObjectStore, cluster: Cluster) -> None:
    path = "GET /apis/example.org/v1/namespaces/touchmark-system/widgets"
    store.refused[path] = make_status(403, "Forbidden", "you cannot list widgets")
    removal = await plan(cluster, data=True)
    assert "widgets (unknown" in removal.foreign[0]
    assert "Namespace" in {each.kind for each in removal.kept}


async def test_a_kind_that_only_an_unpreferred_version_has_is_seen(store: ObjectStore, cluster: Cluster) -> None:
    make(store, "/apis/example.org/v1/namespaces/touchmark-system/widgets/w", "Widget", "w")
    make(store, "/apis/example.org/v1alpha1/namespaces/touchmark-system/gadgets/g", "Gadget", "g")
    removal = await plan(cluster, data=True)
    assert removal.foreign == ("Gadget g", "Widget w")


async def test_a_group_that_nobody_answers_for_keeps_the_namespace(store: ObjectStore, cluster: Cluster) -> None:
    store.refused["GET /apis/example.org/v1"] = make_status(503, "ServiceUnavailable", "no endpoints")
    removal = await plan(cluster, data=True)
    assert len(removal.foreign) == 1
    assert removal.foreign[0].startswith("example.org/v1 (unknown: ")
    assert "Namespace" in {each.kind for each in removal.kept}
    assert "PersistentVolumeClaim" in {each.kind for each in removal.deleted}


async def test_a_namespace_that_was_there_before_isn_t_ours(store: ObjectStore, cluster: Cluster) -> None:
    store.objects[SYSTEM]["metadata"]["labels"] = {}
    removal = await plan(cluster, data=True, definitions=True)
    assert "Namespace" not in {each.kind for each in (*removal.deleted, *removal.kept)}


async def test_the_whole_cluster_s_objects_stay_with_a_ca_in_another_namespace(
    store: ObjectStore, cluster: Cluster
) -> None:
    """A forgotten --system-namespace would take away the running CA's roles and webhook, and even the definitions."""
    with pytest.raises(ConflictError, match="in the namespace touchmark-system, not in mesh") as caught:
        await plan_removal(cluster, "mesh", deletes_data=False, deletes_definitions=True, deletes_helms=True)
    assert caught.value.hint == "--system-namespace touchmark-system"
    # Also in the middle of an uninstallation: the webhook goes first.
    del store.objects["/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/touchmark"]
    with pytest.raises(ConflictError, match="not in mesh"):
        await plan_removal(cluster, "mesh", deletes_data=False, deletes_definitions=True)


async def test_helm_s_release_is_helm_s_to_uninstall(store: ObjectStore, cluster: Cluster) -> None:
    store.objects[DEPLOYMENT]["metadata"]["annotations"] = {"meta.helm.sh/release-name": "mesh"}
    with pytest.raises(ConflictError, match="the release mesh") as caught:
        await plan(cluster)
    assert "helm uninstall mesh --namespace touchmark-system" in caught.value.hint
    assert (await plan(cluster, deletes_helms=True)).deleted


async def test_it_waits_until_all_is_gone_and_names_what_isn_t(store: ObjectStore, cluster: Cluster) -> None:
    removal = await plan(cluster)
    store.holds.add(DEPLOYMENT)
    await remove(cluster, removal.deleted)
    told: list[str] = []
    left = await wait_gone(cluster, removal.deleted, timeout_s=0, tell=told.append)
    assert [str(each) for each in left] == ["Deployment touchmark-ca in touchmark-system"]

    def release(said: str) -> None:
        told.append(said)
        store.objects.pop(DEPLOYMENT, None)

    assert await wait_gone(cluster, removal.deleted, timeout_s=60, tell=release, poll_s=0.01) == []
    assert told == ["1 objects are still there, such as Deployment touchmark-ca in touchmark-system"]


async def test_an_outage_isn_t_taken_for_nothing(store: ObjectStore, cluster: Cluster) -> None:
    path = "GET /apis/apps/v1/namespaces/touchmark-system/deployments"
    store.refused[path] = make_status(500, "InternalError", "no etcd")
    with pytest.raises(UnavailableError):
        await plan(cluster)
    answers: Any = store.refused.pop(path)
    store.refused[f"GET {DEPLOYMENT}"] = answers
    removal = await plan(cluster)
    told: list[str] = []

    def come_back(said: str) -> None:
        told.append(said)
        store.refused.clear()
        store.objects.pop(DEPLOYMENT, None)

    parts = tuple(each for each in removal.deleted if each.kind == "Deployment")
    assert await wait_gone(cluster, parts, timeout_s=60, tell=come_back, poll_s=0.01) == []
    assert "no etcd" in told[0]
