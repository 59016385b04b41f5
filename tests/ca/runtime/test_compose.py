"""What is made is wired as the configuration says, and serves (``ca.runtime.compose``, ``ca.runtime.serve``)."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest

from ca.kubernetes.view import NoCluster
from ca.runtime.compose import SETTLING_S, RunningCA
from shared.model.trust.bundle import RotationKind
from shared.model.wire.admin import Health
from tests.ca.kubernetes.faked_cluster import FakeCluster, running_in_cluster
from tests.ca.running import Admin, make_client_context, running_ca


async def test_outside_a_cluster_every_replica_leads_and_inside_the_elected_one(tmp_path: Path) -> None:
    async with running_ca(tmp_path) as ca:
        assert isinstance(ca.cluster, NoCluster) and ca.cluster.is_leader
    cluster = FakeCluster()
    cluster.is_away = True
    async with running_in_cluster(tmp_path, cluster) as ca:
        assert not ca.cluster.is_leader


@pytest.mark.parametrize(("options", "waits_s"), [({}, SETTLING_S), ({"rotation_minimum_wait_s": 600.0}, 600.0)])
async def test_a_root_s_activation_waits_as_configured(
    tmp_path: Path, options: dict[str, float], waits_s: float
) -> None:
    async with running_ca(tmp_path, **options) as ca:  # type: ignore[arg-type]
        status = await ca.rotation.start(kind=RotationKind.ROOT)
        assert status.ready_at == status.started + waits_s


async def test_a_root_that_the_webhook_has_to_publish_is_waited_for(tmp_path: Path) -> None:
    """No gate is left out: the cluster that can't be read holds the activation."""
    cluster = FakeCluster()
    cluster.is_away = True
    async with running_in_cluster(tmp_path, cluster, webhook_host="127.0.0.1") as ca:
        status = await ca.rotation.start(kind=RotationKind.ROOT)
        assert status.ready_at is None
        assert "hasn't read yet (trust-configmaps, webhook-configuration, pods)" in status.unpublished[0]


async def test_health_is_served_to_sidecars_and_on_the_admin_socket(tmp_path: Path) -> None:
    async with running_ca(tmp_path) as ca, Admin(ca) as admin, aiohttp.ClientSession() as session:
        assert (await admin.get("/healthz", Health)).status == "ok"
        assert await _ask(session, ca, "/healthz") == 200
        assert await _ask(session, ca, "/v1/status") == 404


async def _ask(session: aiohttp.ClientSession, ca: RunningCA, path: str) -> int:
    async with session.get(f"https://{ca.listen}{path}", ssl=make_client_context(ca)) as response:
        return response.status
