"""A change of the cluster is followed (``ca.runtime.cluster_upkeep``); more in ``tests/ca/api/stream/test_pods.py``."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ca.kubernetes.cluster.description import warn_of_former
from ca.runtime import cluster_upkeep
from shared.model.wire.admin import ClusterStatus
from shared.model.wire.messages import Refusal, Welcome
from tests.ca.kubernetes.faked_cluster import FakeCluster, cluster_of, enrol_pod, running_in_cluster
from tests.ca.kubernetes.making import make_pod_json, make_record, make_uid
from tests.ca.running import Admin, FakeSidecar, eventually


async def test_a_gone_pod_ends_its_own_stream_and_no_other_s(tmp_path: Path) -> None:
    cluster = FakeCluster()
    cluster.pods["web-0"] = make_pod_json("web-0", "198.18.0.2", uid=make_uid(1))
    async with (
        running_in_cluster(tmp_path, cluster) as services,
        FakeSidecar(services) as sidecar,
        FakeSidecar(services) as machine,
    ):
        await enrol_pod(sidecar, "web-0", "web-0.00000001", "198.18.0.2")
        await machine.enrol("web-0.00000002", workload="shop/web")  # A machine's, by whatever name.
        cluster_of(services).pods.apply(make_record("web-0", uid=make_uid(2)))
        cluster_of(services).pods.remove(make_record("web-0", uid=make_uid(2)))
        cluster_of(services).pods.remove(make_record("web-0", uid=make_uid(1)))
        await eventually(lambda: services.hub.get("web-0.00000001") is None)
        assert services.hub.get("web-0.00000002") is not None


async def test_pods_whose_sidecar_image_was_taken_out_stay_for_the_grace_and_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The natural edit at an upgrade: the new image in the place of the old one, and the CA's restart."""
    monkeypatch.setattr(cluster_upkeep, "GRACES_S", 0.02)
    old, new = "registry.test/sidecar:1", "registry.test/sidecar:2"
    cluster = FakeCluster()
    for number, created in enumerate(("2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z")):
        cluster.pods[f"web-{number}"] = make_pod_json(
            f"web-{number}", f"198.18.0.{number + 2}", uid=make_uid(number), image=old, created=created
        )
    never_listed = make_pod_json("evil-0", "198.18.0.9", uid=make_uid(9), image="registry.test/evil:1")
    cluster.pods["evil-0"] = never_listed
    async with running_in_cluster(tmp_path, cluster, sidecar_images=(old,)):
        pass
    skipped_s = 0.0
    async with (
        running_in_cluster(
            tmp_path, cluster, sidecar_images=(new,), image_grace_s=1000.0, clock=lambda: time.time() + skipped_s
        ) as services,
        Admin(services) as admin,
        FakeSidecar(services) as running,
        FakeSidecar(services) as newer,
        FakeSidecar(services) as evil,
    ):
        assert isinstance(await enrol_pod(running, "web-0", "web-0.00000000", "198.18.0.2"), Welcome)
        assert isinstance(await enrol_pod(newer, "web-1", "web-1.00000001", "198.18.0.3"), Refusal), "made afterwards"
        assert isinstance(await enrol_pod(evil, "evil-0", "evil-0.00000009", "198.18.0.9"), Refusal), "was never listed"
        [former] = (await admin.get("/v1/cluster", ClusterStatus)).former_images
        assert (former.image, former.pods) == (old, 1)
        inside = cluster_of(services)
        [warning] = warn_of_former(inside.pods, inside.former)
        assert f"1 pods run {old}" in warning and len(warning) <= 240
        skipped_s = 1001.0
        await eventually(lambda: services.hub.get("web-0.00000000") is None)
        async with FakeSidecar(services) as again:
            refusal = await enrol_pod(again, "web-0", "web-0.00000000", "198.18.0.2")
            assert isinstance(refusal, Refusal) and "grace is over" in refusal.message
    async with (
        running_in_cluster(tmp_path, cluster, sidecar_images=(new, old)) as services,
        FakeSidecar(services) as sidecar,
    ):
        assert isinstance(await enrol_pod(sidecar, "web-1", "web-1.00000001", "198.18.0.3"), Welcome), "named again"


async def test_without_a_grace_a_sidecar_image_that_is_taken_out_may_join_no_longer(tmp_path: Path) -> None:
    cluster = FakeCluster()
    cluster.pods["web-0"] = make_pod_json("web-0", "198.18.0.2", uid=make_uid(1), created="2020-01-01T00:00:00Z")
    async with running_in_cluster(tmp_path, cluster):
        pass
    async with (
        running_in_cluster(tmp_path, cluster, sidecar_images=("registry.test/other:1",), image_grace_s=0.0) as services,
        FakeSidecar(services) as sidecar,
    ):
        assert isinstance(await enrol_pod(sidecar, "web-0", "web-0.00000001", "198.18.0.2"), Refusal)
