"""The ledger: every certificate that was issued. I/O."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, bindparam, func, insert, select, text
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.store.engine.database import Database
from ca.store.engine.group_commit import GroupCommit
from ca.store.engine.prepared import Prepared
from ca.store.engine.pruning import delete_before
from ca.store.evictions import find_evicted
from ca.store.records import MAX_LEAF_LIFETIME_S, CertificateRecord, LedgerFilter
from ca.store.tables import authorities, certificates, evicted_sidecars
from shared.model.errors import ConflictError, RefusedError, TouchmarkError
from shared.model.identity.identity import Identity, Workload, parse_spiffe_id
from shared.model.trust.bundle import AuthorityPhase

MAX_LISTED: Final = 10_000
EVERYTHING: Final = LedgerFilter()
_BY_SERIAL: Final = Prepared(select(certificates).where(certificates.c.serial == bindparam("serial")))
_SIGNING_PHASES: Final = (AuthorityPhase.ACTIVE.value, AuthorityPhase.OLD.value)


class Ledger:
    """What was issued, and what of it is alive."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lines = GroupCommit(self.write)

    def __len__(self) -> int:
        """Return how many lines wait to be written."""
        return len(self._lines)

    async def close(self) -> None:
        """Write what waits; take nothing more."""
        await self._lines.close()

    async def record(self, record: CertificateRecord) -> None:
        """Return once the certificate's line is durable. Many at once share a commit.

        Raises:
            ConflictError: its authority doesn't sign any more: the certificate must not leave.
            UnavailableError: it isn't stored.
        """
        await self._lines.add(record)

    async def write(self, records: Sequence[CertificateRecord]) -> Sequence[TouchmarkError | None]:
        """Write lines in one transaction; return for each None or why it isn't there.

        A line of an evicted sidecar is refused with ``RefusedError``, one whose authority neither is active nor was
        until lately with ``ConflictError``: its certificate must not leave. Retiring an authority counts what is alive
        in *its* transaction, and so does evicting, so that no certificate slips in between.
        """
        if self._database.is_sqlite:
            return await self._database.write_in_thread(lambda driver: _write_lines(driver, records))
        async with self._database.writing() as connection:
            named = {record.authority_id for record in records}
            signing = frozenset(
                await connection.scalars(
                    select(authorities.c.authority_id)
                    .where(authorities.c.authority_id.in_(named), authorities.c.phase.in_(_SIGNING_PHASES))
                    .with_for_update(read=True)
                )
            )
            evicted = await find_evicted(connection, sorted({record.instance for record in records}))
            faults = [_find_fault(record, signing, evicted) for record in records]
            lines = [_values(record) for record, fault in zip(records, faults, strict=True) if fault is None]
            if lines:
                await connection.execute(insert(certificates), lines)
        return faults

    async def get(self, serial: int) -> CertificateRecord | None:
        """Return the line of one serial number."""

        async def read(connection: AsyncConnection) -> CertificateRecord | None:
            row = (await _BY_SERIAL.on(connection, serial=_serial(serial))).first()
            return None if row is None else _record(row)

        return await self._database.read(read)

    async def list_lines(self, wanted: LedgerFilter = EVERYTHING) -> list[CertificateRecord]:
        """Return the lines that match, newest first. At most ``MAX_LISTED``."""
        query = make_query(wanted)
        async with self._database.reading() as connection:
            return [_record(row) for row in await connection.execute(query)]

    async def has_any(self, workload: Workload, identities: Sequence[Identity]) -> bool:
        """Tell whether one of a workload's identities was ever issued, as far as the ledger goes back."""
        query = select(certificates.c.serial).where(
            certificates.c.namespace == workload.namespace,
            certificates.c.service_account == workload.service_account,
            certificates.c.identity.in_([str(identity) for identity in identities]),
        )
        async with self._database.reading() as connection:
            return (await connection.execute(query.limit(1))).first() is not None

    async def count_alive(self, *, now: float) -> dict[str, int]:
        """Return how many unexpired certificates each authority has signed, by its ID."""
        # Not the column itself: SQLite would read all that was ever issued, in that column's order.
        authority_id = func.coalesce(certificates.c.authority_id, "")
        query = select(authority_id, func.count()).where(certificates.c.not_after > now).group_by(text("1"))
        async with self._database.reading() as connection:
            return {row[0]: row[1] for row in await connection.execute(query)}

    async def prune(self, *, expired_before: float) -> int:
        """Forget some certificates that expired before then; return how many: call again while it's more than 0."""
        return await delete_before(self._database, certificates, certificates.c.not_after, expired_before)


# The statements of ``Ledger.write`` for SQLite's thread; its writers wait for each other, so that no row is locked.
_INSERT: Final = insert(certificates).compile(dialect=sqlite.dialect())
_INSERTED: Final = tuple(_INSERT.positiontup or ())


def _write_lines(driver: sqlite3.Connection, records: Sequence[CertificateRecord]) -> list[TouchmarkError | None]:
    def select_known(statement: str, values: set[str]) -> Iterator[tuple[str, ...]]:
        return driver.execute(f"{statement} IN ({', '.join('?' * len(values))})", sorted(values))

    phases = select_known(
        f"SELECT authority_id, phase FROM {authorities.name} WHERE authority_id",
        {record.authority_id for record in records},
    )
    signing = frozenset(authority_id for authority_id, phase in phases if phase in _SIGNING_PHASES)
    gone = select_known(
        f"SELECT instance FROM {evicted_sidecars.name} WHERE instance", {record.instance for record in records}
    )
    evicted = frozenset(instance for (instance,) in gone)
    faults = [_find_fault(record, signing, evicted) for record in records]
    written = (_values(record) for record, fault in zip(records, faults, strict=True) if fault is None)
    driver.executemany(str(_INSERT), ([values[name] for name in _INSERTED] for values in written))
    return faults


def make_query(wanted: LedgerFilter) -> Select[Any]:
    """Return the query of a search; apart, so that its plan can be asked for."""
    query = select(certificates).where(*_list_conditions(wanted))
    return query.order_by(certificates.c.issued.desc()).limit(min(wanted.limit, MAX_LISTED))


def _list_conditions(wanted: LedgerFilter) -> Iterator[ColumnElement[bool]]:
    column = certificates.c
    if wanted.serial:
        # Hexadecimal has no letter behind f: a range of the key, whatever the database's collation.
        yield column.serial >= wanted.serial
        yield column.serial < wanted.serial + "g"
    for known, value in (
        (column.digest, wanted.digest),
        (column.authority_id, wanted.authority_id),
        (column.instance, wanted.instance),
    ):
        if value:
            yield known == value
    if wanted.workload is not None:
        yield column.namespace == wanted.workload.namespace
        yield column.service_account == wanted.workload.service_account
    if wanted.alive_at is not None:
        # What was issued earlier needn't be looked at to find what is alive.
        yield column.not_after > wanted.alive_at
        yield column.issued > wanted.alive_at - MAX_LEAF_LIFETIME_S - 1
    if wanted.since is not None:
        yield column.issued >= wanted.since
    if wanted.until is not None:
        yield column.issued <= wanted.until


def _find_fault(record: CertificateRecord, signing: frozenset[str], evicted: frozenset[str]) -> TouchmarkError | None:
    if record.instance in evicted:
        return RefusedError(f"the sidecar {record.instance[:100]} was evicted")
    return None if record.authority_id in signing else ConflictError("the authority doesn't sign any more")


def _serial(serial: int) -> str:
    return f"{serial:x}"


def _values(record: CertificateRecord) -> dict[str, Any]:
    return {
        "serial": _serial(record.serial),
        "identity": str(record.identity),
        "namespace": record.identity.workload.namespace,
        "service_account": record.identity.workload.service_account,
        "kind": record.identity.kind.value,
        "authority_id": record.authority_id,
        "instance": record.instance,
        "issued": record.issued,
        "not_before": record.not_before,
        "not_after": record.not_after,
        "path": record.path.replace("\0", "\ufffd"),  # PostgreSQL takes no NUL.
        "pid": record.pid,
        "uid": record.uid,
        "approved_by": record.approved_by,
        "digest": record.identity.program.digest if record.identity.program is not None else "",
    }


# A search finds the same few in most of its lines.
_parse_identity: Final = lru_cache(maxsize=4096)(parse_spiffe_id)


def _record(row: Row[Any]) -> CertificateRecord:
    return CertificateRecord(
        serial=int(row.serial, 16),
        identity=_parse_identity(row.identity),
        authority_id=row.authority_id,
        instance=row.instance,
        issued=row.issued,
        not_before=row.not_before,
        not_after=row.not_after,
        path=row.path,
        pid=row.pid,
        uid=row.uid,
        approved_by=row.approved_by,
    )
