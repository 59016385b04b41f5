"""The verifier of the services follows the trust bundle."""

from __future__ import annotations

from pathlib import Path

from tests.ca.running import running_ca


async def test_the_verifier_is_kept_until_the_bundle_changes(tmp_path: Path) -> None:
    async with running_ca(tmp_path) as services:
        first = services.verifier
        assert services.verifier is first
        await services.rotation.start()
        assert services.verifier is not first
        assert services.verifier.bundle == services.authorities.bundle()
