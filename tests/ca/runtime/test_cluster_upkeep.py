"""A change of the cluster is followed (``ca.runtime.cluster_upkeep``); more in ``tests/ca/api/stream/test_pods.py``."""

from __future__ import annotations

from pathlib import Path

from tests.ca.kubernetes.faked_cluster import FakeCluster, cluster_of, enrol_pod, running_in_cluster
from tests.ca.kubernetes.making import make_pod_json, make_record, make_uid
from tests.ca.running import FakeSidecar, eventually


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
