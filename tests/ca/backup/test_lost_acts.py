"""Whoever restores a backup is told what was done since, by the store that goes (``ca.backup.lost_acts``)."""

from __future__ import annotations

from pathlib import Path

from ca.backup.lost_acts import Line, find_lost, read_file
from ca.store.engine.database import DATABASE_NAME
from shared.model.policy.rules import Mode
from tests.ca.backup.backups import LATER, restore, take
from tests.ca.founded import NOW, WEB, join, opened


async def test_acts_since_the_backup_are_told_and_those_of_another_ca_are_not(tmp_path: Path) -> None:
    """An eviction would be undone without a word."""
    async with opened(tmp_path / "d") as core:
        await join(core, "one", WEB, "198.18.0.2")
        file = await take(core.store)
        await core.store.namespaces.set_mode("shop", Mode.EXPLICIT)
        await core.store.evictions.evict("one", now=NOW)
        await core.store.sidecars.note_second("one", origin="198.18.0.9", now=NOW)
    async with opened(tmp_path / "other") as core:
        await core.store.namespaces.set_mode("bank", Mode.EXPLICIT)
    loaded = await restore(file, tmp_path / "d", may_replace=True)
    assert [(each.act, each.subject) for each in loaded.lost] == [("mode.set", "shop"), ("sidecar.evict", "one")]
    assert (await restore(file, tmp_path / "other", may_replace=True)).lost == ()
    assert (await restore(file, tmp_path / "new")).lost == ()
    async with opened(tmp_path / "d", now=LATER) as core:
        sidecar = await core.store.sidecars.get("one")
        assert sidecar is not None and sidecar.evicted is None


def test_what_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / DATABASE_NAME
    assert read_file(path) == []
    path.write_bytes(b"SQLite format 3\0" + bytes(5_000))
    assert read_file(path) == []
    known = Line(sequence=1, digest="d", text="")
    assert find_lost([Line(sequence=2, digest="e", text="no entry"), known], known) == ()
    assert find_lost([], None) == find_lost([known], None) == ()
