"""The CA serves when its Deployment is rolled out and the webhook knows its roots; else it is said what is missing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from cli.cluster.connection import Cluster, connect
from cli.cluster.installation.readiness import read_progress, wait_ready
from shared.model.errors import NotFoundError
from tests.cli.fake_api import CA_PODS, FakeAPI, make_pod, make_status

DEPLOYMENT = "GET /apis/apps/v1/namespaces/touchmark-system/deployments/touchmark-ca"
WEBHOOK = "GET /apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/touchmark"
READY = {"webhooks": [{"clientConfig": {"caBundle": "x"}}, {"clientConfig": {"caBundle": "x"}}]}
BARE = {"webhooks": [{"clientConfig": {"caBundle": "x"}}, {"clientConfig": {}}]}


def deployment(*, generation: int = 1, wanted: int = 1, **status: int) -> dict[str, Any]:
    return {
        "metadata": {"generation": generation, "namespace": "touchmark-system"},
        "spec": {"replicas": wanted},
        "status": {"observedGeneration": 1, **status},
    }


DONE = deployment(replicas=1, updatedReplicas=1, availableReplicas=1)


@pytest.fixture
async def cluster(api: FakeAPI) -> AsyncIterator[Cluster]:
    async with connect(str(api.kubeconfig)) as connected:
        yield connected


@pytest.mark.parametrize(
    ("given", "webhook", "is_done", "said"),
    [
        (DONE, READY, True, "1 of 1 replicas of the CA are ready"),
        (deployment(), READY, False, "0 of 1"),
        (DONE, BARE, False, "doesn't know its roots"),
        (DONE, None, False, "doesn't know its roots"),
        (deployment(generation=2, replicas=1, updatedReplicas=1, availableReplicas=1), READY, False, "0 of 1"),
        (deployment(wanted=3, replicas=4, updatedReplicas=3, availableReplicas=3), READY, False, "1 of before"),
        (deployment(wanted=3, replicas=3, updatedReplicas=1, availableReplicas=3), READY, False, "1 of 3"),
    ],
)
def test_it_is_done_when_all_replicas_of_this_template_serve(
    given: dict[str, Any], webhook: dict[str, Any] | None, is_done: bool, said: str
) -> None:
    progress = read_progress(given, webhook, [])
    assert progress.is_done is is_done
    assert said in str(progress)


def test_a_pod_that_isn_t_ready_says_why() -> None:
    waiting = {"name": "ca", "state": {"waiting": {"reason": "ImagePullBackOff"}}}
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node has room"}
    pods = [
        make_pod("a", ready=False, status={"containerStatuses": [waiting]}),
        make_pod("b", status={"conditions": [unscheduled]}),
        make_pod("c"),
    ]
    said = str(read_progress(deployment(), READY, pods))
    assert "a: ca: ImagePullBackOff" in said
    assert "b: Unschedulable: no node has room" in said
    assert "c:" not in said


async def test_it_waits_through_states_and_outages_and_tells_each_once(api: FakeAPI, cluster: Cluster) -> None:
    outage = make_status(503, "ServiceUnavailable", "starting")
    api.answers |= {DEPLOYMENT: [deployment(), deployment(), outage, DONE], WEBHOOK: [BARE, BARE, READY]}
    api.answers[CA_PODS] = {"items": []}
    told: list[str] = []
    assert await wait_ready(cluster, "touchmark-system", timeout_s=60, tell=told.append, poll_s=0.01)
    assert told[0].startswith("0 of 1")
    assert "starting" in told[1]
    assert told[-1] == "1 of 1 replicas of the CA are ready"
    assert len(told) == 3


async def test_after_the_deadline_it_is_not_ready(api: FakeAPI, cluster: Cluster) -> None:
    api.answers |= {DEPLOYMENT: deployment(), WEBHOOK: READY, CA_PODS: {"items": []}}
    assert not await wait_ready(cluster, "touchmark-system", timeout_s=0, tell=lambda said: None)


async def test_a_deployment_that_is_gone_isn_t_waited_for(api: FakeAPI, cluster: Cluster) -> None:
    with pytest.raises(NotFoundError, match="gone"):
        await wait_ready(cluster, "touchmark-system", timeout_s=60, tell=lambda said: None)
