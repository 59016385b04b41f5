"""The admin API shows what the CA sees of its cluster, and who was refused."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import msgspec
import pytest

from ca.runtime.compose import RunningCA
from shared.model.wire.admin import ClusterNamespace, ClusterStatus, ErrorAnswer, Health, PodView
from shared.model.wire.messages import Refusal, Welcome
from tests.ca.kubernetes.faked_cluster import FakeCluster, enrol_pod, running_in_cluster
from tests.ca.kubernetes.making import make_pod_json, make_uid
from tests.ca.running import Admin, FakeSidecar, running_ca


async def test_it_counts_pods_and_names_those_that_something_is_wrong_with(tmp_path: Path) -> None:
    cluster = FakeCluster()
    cluster.namespaces = {"shop": False, "bank": True, "empty": True, "plain": False}
    for number, (name, options) in enumerate(
        {
            "joined": {},
            "waiting": {},
            "missing": {"injected": False},
            "old": {"image": "registry.test/old:0"},
            "by-label": {"injected": False, "annotation": None, "namespace": "bank"},
            "says-no": {"injected": False, "annotation": "false", "namespace": "bank"},
        }.items()
    ):
        cluster.pods[name] = make_pod_json(name, f"198.18.0.{number + 2}", uid=make_uid(number), **options)  # type: ignore[arg-type]
    async with (
        running_in_cluster(tmp_path, cluster) as services,
        Admin(services) as admin,
        FakeSidecar(services) as sidecar,
        FakeSidecar(services) as other,
    ):
        assert isinstance(await enrol_pod(sidecar, "joined", "joined.00000000", "198.18.0.2"), Welcome)
        assert isinstance(await enrol_pod(other, "old", "old.00000003"), Refusal)
        status = await admin.get("/v1/cluster", ClusterStatus)
    assert status.server_version == "v1.36.2"
    assert status.clock_skew_s is not None and abs(status.clock_skew_s) <= 60
    assert status.namespaces == (
        ClusterNamespace(namespace="bank", is_labelled=True, pods=2, wanted=1, injected=0, connected=0),
        ClusterNamespace(namespace="empty", is_labelled=True, pods=0, wanted=0, injected=0, connected=0),
        ClusterNamespace(namespace="shop", is_labelled=False, pods=4, wanted=4, injected=3, connected=1),
    )
    assert [(pod.namespace, pod.name) for pod in status.not_injected] == [("bank", "by-label"), ("shop", "missing")]
    (unfit,) = status.unfit
    assert unfit == PodView(
        namespace="shop",
        name="old",
        service_account="web",
        node="node-1",
        message="has a sidecar of an image that may not join: registry.test/old:0",
    )
    (refused,) = status.refused
    assert (refused.reason, refused.namespace, refused.pod, refused.claimed, status.refused_total) == (
        "pod_not_injected",
        "shop",
        "old",
        "old.00000003",
        1,
    )
    assert {watch.name: (watch.is_synced, watch.objects) for watch in status.watches} == {
        "namespaces": (True, 4),
        "pods": (True, 6),
        "services": (True, 0),
        "endpointslices": (True, 0),
        "meshpolicies": (True, 0),
        "programs": (True, 0),
    }


async def test_while_the_api_server_is_away_it_answers_what_it_knows(tmp_path: Path) -> None:
    cluster = FakeCluster()
    cluster.is_away = True
    async with running_in_cluster(tmp_path, cluster) as services, Admin(services) as admin:
        status = await admin.get("/v1/cluster", ClusterStatus)
    assert status.server_version == ""
    assert not any(watch.is_synced for watch in status.watches)


async def test_outside_a_cluster_there_is_none(services: RunningCA, admin: Admin) -> None:
    assert "outside a cluster" in (await admin.fail("GET", "/v1/cluster", 404)).message


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:15081"}, 200),
        ({"Host": "[::1]"}, 200),
        ({"Host": "evil.test"}, 403),
        ({"Host": "evil.test:15081"}, 403),
        ({"Origin": "https://evil.test"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
async def test_the_loopback_door_serves_the_command_and_no_browser(
    tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    async with running_ca(tmp_path, admin_host="127.0.0.1") as services, aiohttp.ClientSession() as session:
        url = f"http://{services.admin_listen}/readyz"
        async with session.get(url, headers=headers) as response:
            assert response.status == status
            msgspec.json.decode(await response.read(), type=Health if status == 200 else ErrorAnswer)
