"""Sidecars: what they register, and what they have installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from ca.store.sidecars import Sidecars
from shared.model.errors import RefusedError
from tests.ca.founded import NOW, WEB, join, opened, registration


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
