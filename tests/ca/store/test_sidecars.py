"""Sidecars: what they register, and what they have installed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ca.store import sidecars as sidecars_module
from ca.store.records import LedgerFilter
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


async def test_an_answer_in_portions_is_of_one_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that moves meanwhile is where it was: else its sidecar's peers would take it for nobody's."""
    monkeypatch.setattr(sidecars_module, "_LOOKED_AT_ONCE", 2)
    async with opened(tmp_path / "d") as core:
        sidecars = core.store.sidecars
        for number in range(1, 6):
            grant = await join(core, f"web-{number}", WEB, f"198.18.0.{number}", f"198.18.1.{number}")
            await sidecars.mark_namespace_installed(f"web-{number}", "shop", number)
        await core.store.evictions.evict("web-3", now=NOW)
        before = await sidecars.list_all()
        assert [each.instance for each in before] == [f"web-{number}" for number in range(1, 6)]
        for number, record in enumerate(before, 1):
            assert record.addresses == (f"198.18.0.{number}", f"198.18.1.{number}")
            assert (record.namespace_versions, record.evicted) == ({"shop": number}, NOW if number == 3 else None)
            assert await sidecars.get(record.instance) == record
        assert [each.instance for each in await sidecars.list_live(now=NOW)] == ["web-1", "web-2", "web-4", "web-5"]
        read, moved = sidecars_module._read_portion, list[str]()

        async def read_and_move(*arguments: Any) -> Any:
            portion = await read(*arguments)
            if not moved:
                moved.append("from the last one to the first one")
                await sidecars.register(replace(grant, instance="web-1"), registration("web-1", "198.18.0.5"), now=NOW)
                await sidecars.register(grant, registration("web-5", "198.18.1.5"), now=NOW)
            return portion

        monkeypatch.setattr(sidecars_module, "_read_portion", read_and_move)
        assert await sidecars.list_all() == before
        after = {each.instance: each.addresses for each in await sidecars.list_all()}
        assert (after["web-1"], after["web-5"]) == (("198.18.0.5",), ("198.18.1.5",))


async def test_until_when_sidecars_may_come_back_is_read_in_portions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sidecars_module, "_LOOKED_AT_ONCE", 2)
    async with opened(tmp_path / "d") as core:
        ends = {}
        for name in ("a", "b", "c", "d", "e"):
            grant = await join(core, name)
            async with core.store.database.writing() as connection:
                await core.store.renewal_keys.begin(connection, name, name.encode(), now=NOW)
            if name != "d":  # It was never issued a certificate.
                await core.issuance.issue_sidecar(grant, make_csr(), NOW)
                (line,) = await core.store.ledger.list_lines(LedgerFilter(instance=name))
                ends[name] = line.not_after + 60
        assert await core.store.sidecars.list_renewable(grace_s=60) == ends


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
