"""The ledger: what is alive, by authority, and what is forgotten."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text

from ca.store.ledger import Ledger, LedgerLine
from ca.store.migrations.versions import v0023_ledger_search, v0034_ledger_digests
from ca.store.records import LedgerFilter
from ca.store.store import Store
from shared.model.errors import ConflictError, UnavailableError
from shared.model.identity.identity import Identity, IdentityKind
from shared.model.wire.messages import ProgramEvidence
from tests.ca.founded import DATABASE, NOW, WEB, join, make_csr, opened
from tests.ca.running import CURL


async def test_alive_is_counted_by_authority_until_it_expires_and_is_pruned(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        assert isinstance(core.store.ledger, Ledger)
        grant = await join(core, "one")
        issued = await core.issuance.issue_sidecar(grant, make_csr(), NOW)
        assert issued.record.identity.kind is IdentityKind.SIDECAR
        active = core.authorities.active.authority_id
        assert await core.store.ledger.count_alive(now=NOW) == {active: 1}
        assert await core.store.ledger.count_alive(now=NOW + 3600) == {}
        assert await core.store.ledger.list_lines(LedgerFilter(workload=WEB)) == [issued.record]
        assert await core.store.ledger.list_lines(LedgerFilter(workload=DATABASE)) == []
        assert await core.store.ledger.prune(expired_before=NOW + 3601) == 1
        assert await core.store.ledger.get(issued.record.serial) is None


async def test_each_line_of_a_large_group_is_there_or_has_its_own_fault(tmp_path: Path) -> None:
    """Those of an authority that doesn't sign are left out."""
    async with opened(tmp_path / "d") as core:
        first = (await core.issuance.issue_sidecar(await join(core, "one"), make_csr(), NOW)).record
        lines = [
            replace(first, serial=first.serial + number, path=f"/bin/{number}", pid=number, issued=NOW + number / 7)
            for number in range(1, 200)
        ]
        foreign = [replace(line, authority_id="nobody") if line.pid % 10 == 0 else line for line in lines]
        faults = await core.store.ledger.write([LedgerLine(record=each) for each in foreign])
        assert [line.pid for line, fault in zip(foreign, faults, strict=True) if isinstance(fault, ConflictError)] == [
            *range(10, 200, 10)
        ]
        written = [line for line, fault in zip(foreign, faults, strict=True) if fault is None]
        assert await core.store.ledger.list_lines() == [*reversed(written), first]
        assert await core.store.ledger.write([]) == []
        # One that can't be written takes its whole group back: none of them may leave.
        later = replace(first, serial=first.serial + 1_000)
        with pytest.raises(UnavailableError):
            await core.store.ledger.write([LedgerLine(record=later), LedgerLine(record=first)])
        assert await core.store.ledger.get(later.serial) is None


async def test_a_search_finds_by_each_of_its_fields_and_by_all_together(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        one, two = await join(core, "one"), await join(core, "two", DATABASE)
        sidecar = Identity(trust_domain=core.store.trust_domain, workload=WEB, kind=IdentityKind.SIDECAR)
        program = await core.issuance.issue_program(
            sidecar, make_csr(), CURL, ProgramEvidence(path="/usr/bin/curl"), NOW, instance="one"
        )
        first = await core.issuance.issue_sidecar(one, make_csr(), NOW + 10)
        second = await core.issuance.issue_sidecar(two, make_csr(), NOW + 20)
        lines = {"program": program.record, "first": first.record, "second": second.record}

        async def find(wanted: LedgerFilter) -> list[str]:
            found = await core.store.ledger.list_lines(wanted)
            return [name for line in found for name, known in lines.items() if known == line]

        assert await find(LedgerFilter(limit=1)) == ["second"]
        everything = LedgerFilter(authority_id=core.authorities.active.authority_id)
        assert await find(everything) == ["second", "first", "program"]
        for wanted, names in (
            (LedgerFilter(serial=f"{first.record.serial:x}"), ["first"]),
            (LedgerFilter(serial=f"{first.record.serial:x}"[:12]), ["first"]),
            (LedgerFilter(serial="0" * 40), []),
            (LedgerFilter(digest=CURL.digest), ["program"]),
            (LedgerFilter(digest="cc" * 32), []),
            (LedgerFilter(instance="one"), ["first", "program"]),
            (LedgerFilter(workload=DATABASE), ["second"]),
            (LedgerFilter(since=NOW + 10), ["second", "first"]),
            (LedgerFilter(until=NOW + 10), ["first", "program"]),
            (LedgerFilter(since=NOW + 1, until=NOW + 19), ["first"]),
            (LedgerFilter(alive_at=NOW + 9e6), []),
            (LedgerFilter(authority_id="unknown"), []),
        ):
            assert await find(wanted) == names, wanted
            both = [name for name in names if name == "program"]
            assert await find(replace(wanted, digest=wanted.digest or CURL.digest)) == both, wanted


async def test_lines_of_before_are_found_by_their_programs_digest(tmp_path: Path) -> None:
    """The migration takes it from the identity."""
    store = await Store.open(tmp_path, trust_domain="touchmark.local")
    try:
        async with store.database.writing() as connection:
            await connection.execute(
                text(
                    "INSERT INTO certificates (serial, identity, namespace, service_account, kind, authority_id,"
                    " instance, issued, not_before, not_after, path, pid, uid, approved_by) VALUES ('1',"
                    f" 'spiffe://touchmark.local/ns/shop/sa/web/sha256/{CURL.digest}/main/none', 'shop', 'web',"
                    " 'program', 'a', 'one', 1, 1, 2, '', 0, 0, '')"
                )
            )
            await connection.run_sync(_migrate_again)
        (line,) = await store.ledger.list_lines(LedgerFilter(digest=CURL.digest))
        assert line.serial == 1
    finally:
        await store.close()


def _migrate_again(connection: Connection) -> None:
    with Operations.context(MigrationContext.configure(connection)):
        v0034_ledger_digests.downgrade()  # Its index has the digest, too.
        v0023_ledger_search.downgrade()
        v0023_ledger_search.upgrade()
        v0034_ledger_digests.upgrade()


async def test_it_tells_whether_a_workload_was_ever_issued_an_identity(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        grant = await join(core, "one")
        issued = (await core.issuance.issue_sidecar(grant, make_csr(), NOW)).record.identity
        other = msgspec.structs.replace(issued, workload=DATABASE)
        assert await core.store.ledger.has_any(WEB, [other, issued])
        assert not await core.store.ledger.has_any(WEB, [other])
        assert not await core.store.ledger.has_any(DATABASE, [issued])
