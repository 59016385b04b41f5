"""Whoever restores a backup is told what was done since, by the store that goes (``ca.backup.lost_acts``)."""

from __future__ import annotations

from pathlib import Path

import pytest

from ca.backup.lost_acts import MAX_REMINDED, Line, find_lost, find_undone_evictions, read_file
from ca.store.engine.database import DATABASE_NAME
from shared.model.errors import NotFoundError
from shared.model.identity.identity import Workload
from shared.model.policy.rules import Mode
from shared.model.wire.admin_audit import AuditActor, AuditEntry, encode_entry, read_entry
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


async def test_whom_a_restore_has_let_in_again_is_told_until_it_is_evicted_again_or_somebody_says_that_it_may_stay(
    tmp_path: Path,
) -> None:
    """What the restore printed is gone with its terminal."""
    db = Workload(namespace="shop", service_account="db")
    async with opened(tmp_path / "d") as core:
        for number, name in enumerate(("one", "two", "three")):
            await join(core, name, WEB, f"198.18.0.{number + 2}")
        await join(core, "four", db, "198.18.0.9")
        file = await take(core.store)
        for whom in ("one", "two", "three", db):
            await core.store.evictions.evict(whom, now=NOW)
        await core.store.audit.note("sidecar.evict", "\x1b[2J no name", after=None)
        await core.store.audit.note("sidecar.readmit", "three", after=None)
    for _ in range(2):  # The second one loses nothing of what the first has told.
        await restore(file, tmp_path / "d", may_replace=True)
    async with opened(tmp_path / "d", now=LATER) as core:

        async def list_undone() -> tuple[str, ...]:
            restoration = await core.store.authorities.get_restoration()
            assert restoration is not None
            return restoration.undone_evictions

        assert await list_undone() == ("one", "two", "shop/db")
        await core.store.evictions.evict("one", now=LATER)
        assert await list_undone() == ("two", "shop/db")
        with pytest.raises(NotFoundError, match="three"):
            await core.store.evictions.dismiss("three")
        await core.store.evictions.dismiss("two")
        assert await list_undone() == ("shop/db",)
        await core.store.evictions.evict(db, now=LATER)
        assert await list_undone() == ()
        page = await core.store.audit.list_lines(limit=100)
        acts = [(each.act, each.subject) for each in map(read_entry, page.lines)]
        assert acts.count(("eviction.dismiss", "two")) == 1
        assert ("eviction.dismiss", "three") not in acts


def test_of_what_an_intruder_wrote_nothing_breaks_the_restore() -> None:
    def write(sequence: int, act: str, subject: str = "", after: object = None) -> Line:
        entry = AuditEntry(
            sequence=sequence, previous="", time=NOW, act=act, subject=subject, actor=AuditActor(kind="ca"), after=after
        )
        return Line(sequence=sequence, digest=str(sequence), text=encode_entry(entry))

    known = write(1, "mode.set")
    strange = [write(2, "store.restore", after=[1]), write(3, "store.restore", after={"undone_evictions": 7})]
    many = [write(number, "sidecar.evict", f"web-{number}") for number in range(4, 4 + MAX_REMINDED + 10)]
    told = find_undone_evictions([*reversed([known, *strange, *many])], known)
    assert told == tuple(f"web-{number}" for number in range(14, 14 + MAX_REMINDED))
    assert find_undone_evictions([*reversed(many)], known) == ()
