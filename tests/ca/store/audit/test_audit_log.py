"""Each administrative act writes one chained line in its own transaction (``ca.store.audit.audit_log``)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import delete, text, update

from ca.store.audit import audit_log
from ca.store.audit.acting import acting_as
from ca.store.audit.audit_log import AuditLog, append_audit
from ca.store.audit.tables import audit_lines
from ca.store.records import ProgramRecord
from ca.store.store import Store
from shared.model.errors import ConflictError, InputError, NotFoundError, UnavailableError
from shared.model.identity.identity import Workload
from shared.model.identity.program import Program
from shared.model.policy.rules import Action, Mode, Rule
from shared.model.wire.admin_audit import (
    MAX_AUDIT_LINE_BYTES,
    AuditActor,
    AuditEntry,
    AuditMark,
    AuditPage,
    check_line,
    digest_line,
    read_entry,
)
from tests.ca import founded
from tests.ca.founded import NOW, TRUST_DOMAIN, WEB, join, make_csr, make_rotation, opened
from tests.sidecar.partner import Partner


def find_faults(page: AuditPage) -> list[int]:
    """Return the lines at which the chain breaks, from the anchor to the head."""
    mark, faults = page.anchor, []
    for line in page.lines:
        mark, fault = check_line(line, after=mark)
        if fault is not None:
            faults.append(fault.sequence)
    return faults if mark == page.head else [*faults, page.head.sequence]


def entries(page: AuditPage) -> list[AuditEntry]:
    return [read_entry(line) for line in page.lines]


async def make_lines(store: Store, count: int) -> None:
    for number in range(count):
        await store.namespaces.set_mode(f"n{number}", Mode.EXPLICIT)


async def test_every_administrative_act_has_its_line_with_who_before_and_after(tmp_path: Path) -> None:
    program = Program(digest="ab" * 32)
    record = ProgramRecord(
        namespace="shop", name="p", service_account="web", programs=(program,), approved_by="you", approved=NOW
    )
    async with opened(tmp_path / "d") as core:
        store = core.store
        first = (await store.audit.list_lines(limit=1, newest=True)).head.sequence
        with acting_as(AuditActor(kind="socket", name="ada", uid=1000, gid=1000, pid=7)):
            await store.namespaces.set_mode("shop", Mode.EXPLICIT)
            await store.namespaces.put_policy("shop", rules=(), group_label="team")
            await store.namespaces.delete_policy("shop")
            await store.namespaces.put_program(record)
            await store.namespaces.delete_program("shop", "p")
            await store.foreign.put(Partner().roots, now=NOW)
            await store.foreign.delete(Partner().roots.trust_domain)
            token, secret = await store.join_tokens.create(
                workload=WEB, addresses=["198.18.0.2"], labels={}, expires=NOW + 60, now=NOW
            )
        page = await store.audit.list_lines(after=first)
    found = entries(page)
    assert [(one.act, one.subject) for one in found] == [
        ("mode.set", "shop"),
        ("policy.put", "shop"),
        ("policy.delete", "shop"),
        ("program.put", "shop/p"),
        ("program.delete", "shop/p"),
        ("trust.put", Partner().roots.trust_domain),
        ("trust.remove", Partner().roots.trust_domain),
        ("join-token.create", token.token_id),
    ]
    assert {one.actor for one in found} == {AuditActor(kind="socket", name="ada", uid=1000, gid=1000, pid=7)}
    assert (found[0].before["mode"], found[0].after["mode"]) == ("permissive", "explicit")
    assert (found[3].before, found[4].after) == (None, None)
    assert found[3].after["name"] == "p" and found[3].after == found[4].before
    assert secret not in "".join(page.lines)
    assert len(found[5].after["roots"][0]) == 64


async def test_rotations_are_recorded_step_by_step_with_who_asked_and_the_cas_own_steps_as_its_own(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path / "d") as core:
        rotation = make_rotation(core.store, core.authorities)
        await core.issuance.issue_sidecar(await join(core, "web-1"), make_csr(), NOW)
        first = (await core.store.audit.list_lines()).head.sequence
        with acting_as(AuditActor(kind="port", origin="127.0.0.1 port 9")):
            await rotation.start(force=True, now=NOW)
        old = next(one for one in await core.store.authorities.list_all() if one.phase == "old")
        await rotation.taint(old.authority_id, now=NOW)
        founding = entries(await core.store.audit.list_lines(limit=2))
        found = entries(await core.store.audit.list_lines(after=first))
    assert [(one.act, one.actor.kind) for one in founding] == [("authority.found", "ca")] * 2
    assert [(one.act, one.actor.kind) for one in found] == [
        ("rotation.prepare", "port"),
        ("rotation.active", "port"),
        ("authority.tainted", "ca"),
    ]
    assert found[-1].subject == old.authority_id
    assert (found[-1].before["phase"], found[-1].after["phase"]) == ("old", "tainted")


async def test_an_act_that_fails_leaves_no_line_and_a_line_that_fails_no_act(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path / "d") as core:
        before = await core.store.audit.list_lines()
        with pytest.raises(ConflictError):
            await core.store.namespaces.set_mode("shop", Mode.EXPLICIT, expected_version=9)
        with pytest.raises(NotFoundError):
            await core.store.namespaces.delete_policy("shop")
        assert await core.store.audit.list_lines() == before

        async def fail(*_arguments: object, **_named: object) -> None:
            raise InputError("no room")

        monkeypatch.setattr("ca.store.namespaces.append_audit", fail)
        with pytest.raises(InputError):
            await core.store.namespaces.set_mode("shop", Mode.EXPLICIT)
        assert (await core.store.namespaces.get_state("shop")).mode is Mode.PERMISSIVE


async def test_a_removed_changed_or_reordered_line_shows(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await make_lines(core.store, 8)
        whole = await core.store.audit.list_lines()
        assert find_faults(whole) == []
        lines, last = whole.lines, whole.head.sequence
        changed = lines[4].replace("explicit", "permissive")
        assert changed != lines[4]
        for name, told in {
            "changed": (*lines[:4], changed, *lines[5:]),
            "removed": (*lines[:4], *lines[5:]),
            "reordered": (*lines[:4], lines[5], lines[4], *lines[6:]),
            "unreadable": (*lines[:4], "x", *lines[5:]),
            "the first removed": lines[1:],
            "the last removed": lines[:-1],
            "all removed": (),
            "the last changed": (*lines[:-1], lines[-1].replace("explicit", "permissive")),
        }.items():
            assert find_faults(msgspec.structs.replace(whole, lines=told)), name
        async with core.store.database.writing() as connection:
            await connection.execute(delete(audit_lines).where(audit_lines.c.sequence == last))
        assert find_faults(await core.store.audit.list_lines()) == [last]
        async with core.store.database.writing() as connection:
            await connection.execute(update(audit_lines).where(audit_lines.c.sequence == 3).values(line=lines[3]))
        assert 4 in find_faults(await core.store.audit.list_lines())


async def test_the_chain_stays_one_with_several_writers_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path / "d", replica="a") as core:
        other = await Store.open(founded.locate(tmp_path / "d"), trust_domain=TRUST_DOMAIN, replica="b")
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(10):
                    for store in (core.store, other):
                        group.create_task(store.namespaces.set_mode(f"{store.replica}{number}", Mode.EXPLICIT))
                        group.create_task(store.namespaces.set_mode("both", Mode.EXPLICIT))
            page = await other.audit.list_lines()
        finally:
            await other.close()
    assert [one.sequence for one in entries(page)] == list(range(1, len(page.lines) + 1))
    assert len(page.lines) == 42 and find_faults(page) == []


async def test_a_line_is_bounded_whatever_a_policy_holds(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        rules = [Rule(name=f"é{number}", action=Action.DENY) for number in range(300)]
        await core.store.namespaces.put_policy("shop", rules=rules)
        policy = await core.store.audit.list_lines(limit=1, newest=True)
        async with core.store.database.writing() as connection:
            long = "\x01" * 100_000
            await append_audit(core.store.database, connection, "test", long, before=[long], after={"x": long})
        page = await core.store.audit.list_lines(limit=1, newest=True)
    assert set(read_entry(policy.lines[0]).after) == {"bytes", "sha256"}
    assert len(page.lines[0].encode()) <= MAX_AUDIT_LINE_BYTES
    assert set(read_entry(page.lines[0]).after) == {"bytes", "sha256"}


async def test_pages_follow_each_other_and_a_time_narrows_them(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await make_lines(core.store, 5)
        first = await core.store.audit.list_lines(limit=4)
        rest = await core.store.audit.list_lines(after=4, limit=4)
        assert (first.is_last, rest.is_last) == (False, True)
        assert [one.sequence for one in entries(first)] == [1, 2, 3, 4]
        assert [one.sequence for one in entries(rest)] == [5, 6, 7]
        newest = await core.store.audit.list_lines(limit=2, newest=True)
        assert [one.sequence for one in entries(newest)] == [6, 7]
        times = [one.time for one in entries(newest)]
        assert (await core.store.audit.list_lines(since=times[-1] + 1)).lines == ()
        assert len((await core.store.audit.list_lines(until=times[-1])).lines) == 7


async def test_pruning_is_an_act_that_names_the_line_and_leaves_a_chain_that_holds(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await make_lines(core.store, 5)
        page = await core.store.audit.list_lines()
        mark = AuditMark(sequence=4, digest=digest_line(page.lines[3]))
        for wrong, kind in (
            (AuditMark(sequence=4, digest=digest_line(page.lines[2])), ConflictError),
            (AuditMark(sequence=99, digest=mark.digest), NotFoundError),
        ):
            with pytest.raises(kind):
                await core.store.audit.prune(wrong)
        assert await core.store.audit.list_lines() == page
        await core.store.audit.prune(mark)
        left = await core.store.audit.list_lines()
        assert left.anchor == mark
        assert [one.sequence for one in entries(left)] == [5, 6, 7, 8]
        assert entries(left)[-1].act == "audit.prune"
        assert find_faults(left) == []
        # All of it, twice: the chain goes on behind its anchor.
        await core.store.audit.prune(left.head)
        again = await core.store.audit.list_lines()
        assert [one.sequence for one in entries(again)] == [9] and find_faults(again) == []


async def test_pruning_goes_in_portions_and_is_recorded_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each leaves a chain that is whole; what was interrupted is finished by the same command."""
    monkeypatch.setattr(audit_log, "PRUNED_AT_ONCE", 2)
    async with opened(tmp_path / "d") as core:
        await make_lines(core.store, 5)
        page = await core.store.audit.list_lines()
        mark = AuditMark(sequence=5, digest=digest_line(page.lines[4]))
        real, portions = audit_log._remove_some, iter([True, True, False])

        async def fail(*arguments: Any) -> AuditMark:
            if not next(portions):
                raise UnavailableError("the disk has failed")
            return await real(*arguments)

        monkeypatch.setattr(audit_log, "_remove_some", fail)
        with pytest.raises(UnavailableError):
            await core.store.audit.prune(mark)
        left = await core.store.audit.list_lines()
        assert left.anchor == AuditMark(sequence=4, digest=digest_line(page.lines[3]))
        assert [one.sequence for one in entries(left)] == [5, 6, 7, 8] and find_faults(left) == []
        assert entries(left)[-1].act == "audit.prune" and entries(left)[-1].subject == "5"
        monkeypatch.setattr(audit_log, "_remove_some", real)
        await core.store.audit.prune(mark)
        left = await core.store.audit.list_lines()
        assert left.anchor == mark and find_faults(left) == []
        assert [one.sequence for one in entries(left)] == [6, 7, 8, 9]


async def test_what_pods_say_of_themselves_is_no_administrative_act(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        before = (await core.store.audit.list_lines()).head
        await core.store.namespaces.set_labels(Workload(namespace="shop", service_account="web"), {"a": "b"})
        assert (await core.store.audit.list_lines()).head == before


async def test_reading_uses_indexes(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        assert isinstance(core.store.audit, AuditLog)
        if core.store.database.is_sqlite:
            query = "EXPLAIN QUERY PLAN SELECT line FROM audit_lines WHERE sequence > 5 ORDER BY sequence LIMIT 9"
            async with core.store.database.reading() as connection:
                plan = " ".join(str(row) for row in await connection.execute(text(query)))
            assert "SEARCH" in plan and "TEMP B-TREE" not in plan


async def test_a_window_of_time_is_read_page_by_page_in_the_order_of_time(tmp_path: Path) -> None:
    """Also where the clock was set back: each line once."""
    async with opened(tmp_path / "d") as core:
        audit = core.store.audit
        await make_lines(core.store, 6)
        head = (await audit.list_lines()).head.sequence
        times = {head - 5 + number: float(time) for number, time in enumerate((10, 20, 30, 15, 20, 40))}
        async with core.store.database.writing() as connection:
            for sequence, time in times.items():
                line = audit_lines.c.sequence == sequence
                await connection.execute(update(audit_lines).where(line).values(time=time))
        inside = sorted((time, sequence) for sequence, time in times.items() if 15 <= time <= 30)
        found: list[int] = []
        is_last = False
        while not is_last:
            page = await audit.list_lines(since=15, until=30, limit=2, after=found[-1] if found else 0)
            found += [each.sequence for each in entries(page)]
            is_last = page.is_last
        assert found == [sequence for _, sequence in inside]
        newest = await audit.list_lines(until=30, limit=3, newest=True)
        assert [each.sequence for each in entries(newest)] == found[-3:]
