"""Sidecars: what they register, and what they have installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from ca.store import sidecars as sidecars_module
from ca.store.sidecars import SecondSidecarError, Sidecars
from shared.model.errors import ConflictError, RefusedError
from tests.ca.founded import DATABASE, NOW, WEB, join, make_csr, opened, registration
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
        for moment, alive in ((NOW, ["web-1"]), (NOW + 90_000, [])):  # Then its certificate has ended.
            assert [each.instance for each in await sidecars.list_live(now=moment)] == alive
            assert await sidecars.list_live_instances(now=moment) == frozenset(alive)
        await join(core, "db-1", DATABASE, "198.18.0.2")
        taken = await sidecars.get_at("198.18.0.2")
        assert taken is not None and taken.instance == "db-1"
        await join(core, "web-1", WEB, "198.18.0.3")
        await sidecars.mark_seen("web-1", connected=False, now=NOW)
        with pytest.raises(ConflictError):  # It is back, and stopped is forgotten.
            await join(core, "db-2", DATABASE, "198.18.0.3")


async def test_a_stream_with_another_replica_keeps_a_second_sidecar_out_while_that_replica_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path / "d", replica="one") as one, opened(tmp_path / "d", replica="two") as two:
        await one.store.replicas.beat()
        grant = await join(one, "web-1")
        assert not await two.store.sidecars.is_open_elsewhere("web-1", now=NOW)  # It has no certificate yet.
        await one.issuance.issue_sidecar(grant, make_csr(), NOW)
        assert await two.store.sidecars.is_open_elsewhere("web-1", now=NOW)
        assert not await one.store.sidecars.is_open_elsewhere("web-1", now=NOW)
        assert await one.store.sidecars.is_open_here("web-1", now=NOW)
        assert not await two.store.sidecars.is_open_here("web-1", now=NOW)
        async with two.store.database.writing() as connection:
            for replaces in (None, NOW - 1):  # A stream from before isn't the one that is open.
                with pytest.raises(SecondSidecarError) as refused:
                    await two.store.sidecars.enter(connection, grant, NOW, key_digest=b"another", replaces=replaces)
            assert refused.value.registered == NOW
            await two.store.sidecars.enter(connection, grant, NOW, key_digest=b"another", replaces=NOW)
        monkeypatch.setattr(sidecars_module, "_REPLICA_BEATS_S", -1.0)  # Its last sign of life is too old.
        assert not await two.store.sidecars.is_open_elsewhere("web-1", now=NOW)


async def test_a_second_sidecar_is_counted_and_audited_once(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await join(core, "web-1")
        for number in (1, 2, 3):
            assert await core.store.sidecars.note_second("web-1", origin="198.18.0.9", now=NOW + number) == number
        record = await core.store.sidecars.get("web-1")
        assert record is not None
        assert (record.second_count, record.second_at, record.second_from) == (3, NOW + 3, "198.18.0.9")
        lines = (await core.store.audit.list_lines()).lines
        assert sum('"sidecar.second"' in line for line in lines) == 1
        assert await core.store.sidecars.note_second("unknown", origin="198.18.0.9", now=NOW) == 0
