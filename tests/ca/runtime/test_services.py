"""The verifier of the services follows the trust bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.ca.running import running_ca


async def test_the_verifier_is_kept_until_the_bundle_changes(tmp_path: Path) -> None:
    async with running_ca(tmp_path) as services:
        first = services.verifier
        assert services.verifier is first
        await services.rotation.start()
        assert services.verifier is not first
        assert services.verifier.bundle == services.authorities.bundle()


async def test_outside_a_cluster_every_replica_leads_and_inside_the_elected_one(tmp_path: Path) -> None:
    async with running_ca(tmp_path) as services:
        assert services.is_leader
        services.configuration = replace(services.configuration, kubernetes=True, sidecar_images=("example.test/s:1",))
        assert not services.is_leader
