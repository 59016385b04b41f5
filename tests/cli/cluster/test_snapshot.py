"""A snapshot holds every answer, and the error of each request that failed."""

from __future__ import annotations

import time

import pytest
from aiohttp import web

from cli.admin.observation import Observation
from cli.cluster import snapshot as snapshots
from cli.cluster.ca_pod import describe_state, is_ready
from cli.cluster.connection import connect
from cli.cluster.faults import ForbiddenError, NoCAPodError
from cli.cluster.membership import list_images
from cli.cluster.network_policies import group_pods
from cli.cluster.snapshot import ClusterSnapshot, has_sidecar, take_snapshot, trim_pod
from shared.model.errors import TouchmarkError
from shared.model.version import VERSION
from tests.cli.cluster.snapshots import make_meshed_pod, make_namespace
from tests.cli.commands.test_status import answer_all
from tests.cli.fake_api import FakeAPI, make_pod, make_status
from tests.cli.fake_ca import FakeCA
from tests.cli.observations import CLUSTER, change_ca

REVIEW = "POST /apis/authorization.k8s.io/v1/subjectaccessreviews"


async def ask() -> ClusterSnapshot:
    async with connect() as cluster:
        return await take_snapshot(cluster, "touchmark-system")


@pytest.fixture
def answering(api: FakeAPI) -> FakeAPI:
    api.answers["GET /version"] = {"gitVersion": "v1.34.4"}
    api.answers["GET /api/v1/pods"] = {"items": [make_meshed_pod("web-1", namespace="bank")]}
    api.answers["GET /api/v1/namespaces"] = {"items": [make_namespace("shop", **{"touchmark.dev/inject": "true"})]}
    api.answers["GET /apis/networking.k8s.io/v1/networkpolicies"] = {"items": []}
    api.answers["POST /api/v1/namespaces/bank/pods"] = make_meshed_pod("trial", namespace="bank")
    api.answers[REVIEW] = {"status": {"allowed": True}}
    return api


async def test_everything_is_asked(cluster_ca: FakeCA, answering: FakeAPI) -> None:
    answer_all(cluster_ca)
    cluster_ca.answers["GET /v1/status"] = change_ca(now=time.time() + 1000)
    cluster_ca.answers["GET /v1/cluster"] = CLUSTER
    found = await ask()
    assert (found.version, found.trial_namespace, found.trial, found.missing_rights) == ("v1.34.4", "bank", True, [])
    assert found.api_skew_s == 0.0
    assert found.ca_skew_s == pytest.approx(1000, abs=100)
    assert isinstance(found.observed, Observation)
    assert found.observed.cluster == CLUSTER
    assert found.observed.ca.version == VERSION
    assert found.webhook is None
    assert found.definitions == {"meshpolicies.touchmark.dev": None, "programs.touchmark.dev": None}
    trial = next(query for key, query, _ in answering.requests if key == "POST /api/v1/namespaces/bank/pods")
    assert trial == {"dryRun": "All"}


async def test_what_is_forbidden_is_kept_as_the_error(answering: FakeAPI) -> None:
    no = make_status(403, "Forbidden", 'User "u" cannot list resource')
    for key in [REVIEW, "GET /apis/networking.k8s.io/v1/networkpolicies"]:
        answering.answers[key] = no
    answering.answers["GET /api/v1/namespaces/touchmark-system/pods"] = {"items": []}
    found = await ask()
    assert isinstance(found.network_policies, ForbiddenError)
    assert isinstance(found.missing_rights, ForbiddenError)
    assert len(answering.asked(REVIEW)) == 1
    assert isinstance(found.observed, NoCAPodError)
    assert found.ca_skew_s is None


async def test_a_right_that_is_missing_is_found(answering: FakeAPI) -> None:
    async def judge(request: web.Request) -> web.Response:
        asked = (await request.json())["spec"]["resourceAttributes"]
        return web.json_response({"status": {"allowed": asked["resource"] != "endpointslices"}})

    answering.answers[REVIEW] = judge
    found = await ask()
    assert not isinstance(found.missing_rights, TouchmarkError)
    assert [str(right) for right in found.missing_rights] == [
        "list endpointslices.discovery.k8s.io",
        "watch endpointslices.discovery.k8s.io",
    ]


async def test_the_trial_is_where_the_mesh_is_or_is_asked_for(answering: FakeAPI) -> None:
    answering.answers["GET /api/v1/pods"] = {"items": [make_pod("plain", namespace="bank")]}
    answering.answers["POST /api/v1/namespaces/shop/pods"] = make_pod("trial", namespace="shop")
    found = await ask()
    assert (found.trial_namespace, found.trial) == ("shop", False)
    answering.answers["GET /api/v1/namespaces"] = {"items": []}
    assert (await ask()).trial_namespace == "default"


def test_clocks_differ_only_by_what_the_asking_doesn_t_explain() -> None:
    assert snapshots._measure_skew(100.0, 102.0, 0.0) is None
    assert snapshots._measure_skew(100.0, 102.0, 99.5) == 0.0
    assert snapshots._measure_skew(100.0, 102.0, 102.0) == 0.0
    assert snapshots._measure_skew(100.0, 102.0, 110.0) == 8.0
    assert snapshots._measure_skew(100.0, 102.0, 90.0) == -9.0


def test_a_sidecar_is_told_by_its_container() -> None:
    assert has_sidecar(make_meshed_pod("a"))
    assert not has_sidecar(make_pod("a"))


def test_of_a_pod_only_what_is_looked_at_is_kept() -> None:
    metadata = {
        "labels": {"app": "web"},
        "managedFields": [{"fieldsV1": {"f:spec": {}}}] * 20,
        "annotations": {"touchmark.dev/inject": "true", "kubectl.kubernetes.io/last-applied-configuration": "x" * 5000},
    }
    status = {
        "podIPs": [{"ip": "198.18.0.7"}],
        "containerStatuses": [{"name": "app", "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "imageID": "x"}],
    }
    pod = make_meshed_pod("web-1", ready=False, metadata=metadata, status=status)
    pod["spec"]["containers"] = [
        {"name": "app", "image": "a", "env": [{}], "ports": [{"name": "h", "containerPort": 1}]}
    ]
    pod["spec"]["containers"][0]["securityContext"] = {"privileged": True, "runAsUser": 0}
    trimmed = trim_pod(pod)
    assert len(str(trimmed)) < 1000
    assert trimmed["spec"]["containers"][0]["securityContext"] == {"privileged": True}
    assert trim_pod({"metadata": {}, "spec": {"hostNetwork": True}})["spec"]["hostNetwork"] is True
    assert trimmed["metadata"]["annotations"] == {"touchmark.dev/inject": "true"}
    assert has_sidecar(trimmed)
    for look in (group_pods, lambda pods: [is_ready(pods[0]), describe_state(pods[0]), list_images(pods[0], ("app",))]):
        assert look([trimmed]) == look([pod])
