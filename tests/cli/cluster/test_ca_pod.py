"""Which CA pod is asked, and what is said when none can be."""

from __future__ import annotations

import pytest

from cli.cluster.ca_pod import describe_state, find_ready_pods, is_ready
from cli.cluster.connection import connect
from cli.cluster.faults import NoCAPodError
from tests.cli.fake_api import CA_PODS, FakeAPI, make_pod

CRASHING = make_pod(
    "ca-1",
    ready=False,
    status={"containerStatuses": [{"name": "ca", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]},
)


async def find(namespace: str = "touchmark-system") -> list[str]:
    async with connect() as cluster:
        return await find_ready_pods(cluster, namespace)


async def test_the_oldest_ready_pod_comes_first_and_those_that_go_are_left_out(api: FakeAPI) -> None:
    api.answers[CA_PODS] = {
        "items": [
            make_pod("young", metadata={"creationTimestamp": "2026-02-02T00:00:00Z"}),
            make_pod("going", metadata={"deletionTimestamp": "2026-02-02T00:00:00Z"}),
            make_pod("old", metadata={"creationTimestamp": "2026-01-01T00:00:00Z"}),
            CRASHING,
        ]
    }
    assert await find() == ["old", "young"]
    assert api.requests[0][1]["labelSelector"] == "app.kubernetes.io/name=touchmark-ca"


async def test_without_any_pod_the_hint_installs(api: FakeAPI) -> None:
    api.answers[CA_PODS] = {"items": []}
    with pytest.raises(NoCAPodError, match="no CA runs in namespace touchmark-system") as caught:
        await find()
    assert "kubectl apply -k" in caught.value.hint


async def test_pods_that_aren_t_ready_are_named_with_their_state(api: FakeAPI) -> None:
    api.answers[CA_PODS] = {"items": [CRASHING]}
    with pytest.raises(NoCAPodError, match=r"ca-1 \(ca: CrashLoopBackOff\)"):
        await find()


def test_a_pod_s_state_in_a_few_words() -> None:
    assert is_ready(make_pod("a"))
    assert describe_state(make_pod("a")) == "ready"
    assert describe_state(make_pod("a", ready=False)) == "Running, not ready"
    assert describe_state(make_pod("a", metadata={"deletionTimestamp": "x"})) == "terminating"
    assert describe_state({}) == "unknown, not ready"
