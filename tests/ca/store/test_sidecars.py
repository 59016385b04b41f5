"""Sidecars: what they register, and what they have installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from ca.store.sidecars import Sidecars
from shared.model.errors import ConflictError, RefusedError
from tests.ca.founded import DATABASE, NOW, WEB, join, opened, registration
from tests.ca.rotation.test_rotation import issue


async def test_only_granted_addresses_are_registered_in_whatever_spelling(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        assert isinstance(core.store.sidecars, Sidecars)
        grant = await join(core, "one", WEB, "198.18.0.2")
        with pytest.raises(RefusedError, match=r"198\.18\.0\.3"):
            await core.store.sidecars.register(grant, registration("one", "198.18.0.3"), now=NOW)
        await core.store.sidecars.register(grant, registration("one", "::ffff:198.18.0.2"), now=NOW)
        found = await core.store.sidecars.get_at("198.18.0.2")
        assert found is not None
        assert found.addresses == ("198.18.0.2",)


async def test_acknowledgements_are_kept_and_forgotten_when_it_joins_anew(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await join(core, "one")
        await core.store.sidecars.mark_bundle_installed("one", 3)
        await core.store.sidecars.mark_namespace_installed("one", "shop", 7)
        (record,) = await core.store.sidecars.list_all()
        assert (record.installed_sequence, record.namespace_versions) == (3, {"shop": 7})
        await join(core, "one")
        (record,) = await core.store.sidecars.list_all()
        assert (record.installed_sequence, record.namespace_versions) == (0, {})


async def test_who_stops_properly_gives_its_addresses_back_at_once_and_who_vanishes_doesnt(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await join(core, "web-1", WEB, "198.18.0.2")
        await issue(core)
        sidecars = core.store.sidecars
        await sidecars.mark_seen("web-1", connected=False, now=NOW)
        with pytest.raises(ConflictError, match="belongs to a live sidecar of shop/web"):
            await join(core, "db-1", DATABASE, "198.18.0.2")
        await sidecars.mark_seen("web-1", connected=False, has_stopped=True, now=NOW)
        listed = await sidecars.get_at("198.18.0.2")
        assert listed is not None and listed.instance == "web-1"
        await join(core, "db-1", DATABASE, "198.18.0.2")
        taken = await sidecars.get_at("198.18.0.2")
        assert taken is not None and taken.instance == "db-1"
        await join(core, "web-1", WEB, "198.18.0.3")
        await sidecars.mark_seen("web-1", connected=False, now=NOW)
        with pytest.raises(ConflictError):  # It is back, and stopped is forgotten.
            await join(core, "db-2", DATABASE, "198.18.0.3")
