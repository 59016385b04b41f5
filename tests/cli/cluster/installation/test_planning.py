"""A plan says what applying would change, field by field, and changes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from cli.cluster.connection import Cluster, connect
from cli.cluster.faults import ForeignObjectError, OwnedElsewhereError
from cli.cluster.installation.bundle import load_objects
from cli.cluster.installation.choices import Choices
from cli.cluster.installation.planning import MANAGER, Effect, FieldChange, apply, compare, plan
from cli.cluster.installation.rendering import render
from shared.model.kubernetes.contract import FIELD_MANAGER
from tests.cli.fake_api import FakeAPI, make_status
from tests.cli.object_store import ObjectStore, open_store

OBJECTS = render(load_objects(has_database=False), Choices())
DEPLOYMENT = "/apis/apps/v1/namespaces/touchmark-system/deployments/touchmark-ca"


@pytest.fixture
def store(api: FakeAPI) -> ObjectStore:
    return open_store(api)


@pytest.fixture
async def cluster(api: FakeAPI) -> AsyncIterator[Cluster]:
    async with connect(str(api.kubeconfig)) as connected:
        yield connected


def test_the_manager_isn_t_the_ca_s() -> None:
    """Or an apply that doesn't name the caBundle would take it away."""
    assert len({MANAGER, FIELD_MANAGER}) == 2


async def test_in_an_empty_cluster_everything_is_made_and_nothing_is_by_the_plan(
    store: ObjectStore, cluster: Cluster
) -> None:
    before = dict(store.objects)
    changes = await plan(cluster, OBJECTS)
    assert store.objects == before
    assert {each.effect for each in changes} == {Effect.CREATED}
    assert {each.is_tried for each in changes if not each.namespace} == {True}
    assert {each.is_tried for each in changes if each.namespace} == {False}, "their namespace isn't there"


async def test_applied_objects_are_unchanged_and_a_change_is_told_by_its_field(
    store: ObjectStore, cluster: Cluster
) -> None:
    await apply(cluster, OBJECTS)
    assert {each.effect for each in await plan(cluster, OBJECTS)} == {Effect.UNCHANGED}
    changed = render(load_objects(has_database=False), Choices(image="r/ca:1"))
    [change] = [each for each in await plan(cluster, changed) if each.effect is not Effect.UNCHANGED]
    assert (change.kind, change.effect) == ("Deployment", Effect.CHANGED)
    assert change.fields == (
        FieldChange(path="spec.template.spec.containers[ca].image", before="touchmark/ca:0.2.0", after="r/ca:1"),
    )
    queries = [query for key, query, _ in store.api.requests if key.startswith("PATCH ")]
    assert {query["fieldManager"] for query in queries} == {MANAGER}
    assert not any("force" in query for query in queries)


async def test_what_another_tool_owns_is_left_to_it_unless_it_is_taken_over(
    store: ObjectStore, cluster: Cluster
) -> None:
    await apply(cluster, OBJECTS)
    cause = {"reason": "FieldManagerConflict", "message": 'conflict with "kubectl"', "field": ".spec.replicas"}
    store.refused[f"PATCH {DEPLOYMENT}"] = make_status(409, "Conflict", "conflict", causes=[cause])
    with pytest.raises(OwnedElsewhereError, match="kubectl") as caught:
        await plan(cluster, OBJECTS)
    assert "--force-conflicts" in caught.value.hint
    store.refused.clear()
    await apply(cluster, OBJECTS, is_forced=True)
    assert store.api.requests[-1][1]["force"] == "true"


async def test_a_conflict_about_nothing_changes_nothing(store: ObjectStore, cluster: Cluster) -> None:
    """The API server sees one where both tools say the same of an indivisible field that it completes."""
    await apply(cluster, OBJECTS)
    name = "validatingadmissionpolicies/touchmark-port-ranges"
    path = f"/apis/admissionregistration.k8s.io/v1/{name}"
    cause = {"reason": "FieldManagerConflict", "message": 'conflict with "kubectl"', "field": ".spec.matchConstraints"}
    store.conflicts[path] = make_status(409, "Conflict", "conflict", causes=[cause])
    assert {each.effect for each in await plan(cluster, OBJECTS)} == {Effect.UNCHANGED}
    await apply(cluster, OBJECTS)
    forced = [query for key, query, _ in store.api.requests if key == f"PATCH {path}" and "force" in query]
    assert [query["dryRun"] for query in forced] == ["All", "All"], "nothing is taken over"
    store.objects[path]["spec"]["matchConstraints"] = {}
    with pytest.raises(OwnedElsewhereError):
        await plan(cluster, OBJECTS)
    with pytest.raises(OwnedElsewhereError):
        await apply(cluster, OBJECTS)


async def test_an_object_of_somebody_else_isn_t_taken_unless_that_is_asked_for(
    store: ObjectStore, cluster: Cluster
) -> None:
    """With our label an uninstallation would delete it."""
    path = "/apis/networking.k8s.io/v1/namespaces/touchmark-system/networkpolicies/default-deny"
    store.objects["/api/v1/namespaces/touchmark-system"] = {"kind": "Namespace", "metadata": OBJECTS[0]["metadata"]}
    store.objects[path] = {"kind": "NetworkPolicy", "metadata": {"name": "default-deny", "labels": {"team": "a"}}}
    with pytest.raises(ForeignObjectError, match="NetworkPolicy default-deny in namespace touchmark-system") as caught:
        await plan(cluster, OBJECTS)
    assert "--force-conflicts" in caught.value.hint
    assert await plan(cluster, OBJECTS, is_forced=True)


def test_what_the_server_keeps_is_no_change() -> None:
    before = {"metadata": {"name": "a", "generation": 1, "managedFields": []}, "status": {"a": 1}, "spec": {"b": [1]}}
    after = {"metadata": {"name": "a", "generation": 2, "uid": "u"}, "spec": {"b": [2], "c": "x" * 200}}
    first, second = compare(before, after)
    assert (first.path, first.before, first.after) == ("spec.b", "[1]", "[2]")
    assert (second.path, second.before, len(second.after)) == ("spec.c", "", 120)
