"""The ledger: every certificate that was issued. I/O."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Row, Select, bindparam, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.store.engine.database import Database
from ca.store.engine.group_commit import GroupCommit
from ca.store.engine.kept_connection import Driver
from ca.store.engine.prepared import Prepared
from ca.store.engine.pruning import delete_before
from ca.store.records import MAX_LEAF_LIFETIME_S, CertificateRecord, LedgerFilter
from ca.store.tables import authorities, certificates, evicted_sidecars, namespaces, sidecars
from shared.model.errors import ConflictError, RefusedError, TouchmarkError
from shared.model.identity.identity import Identity, Workload, parse_spiffe_id
from shared.model.trust.bundle import AuthorityPhase

MAX_LISTED: Final = 10_000
EVERYTHING: Final = LedgerFilter()
_BY_SERIAL: Final = Prepared(select(certificates).where(certificates.c.serial == bindparam("serial")))
_SIGNING_PHASES: Final = (AuthorityPhase.ACTIVE.value, AuthorityPhase.OLD.value)


class PolicyChangedError(ConflictError):
    """A certificate was decided by a state of its namespace that isn't the present one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerLine:
    """What is to be entered.

    Attributes:
        policy_version: of the namespace's state by which it was decided; None: it wasn't by any.
    """

    record: CertificateRecord
    policy_version: int | None = None


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

    async def record(self, record: CertificateRecord, *, policy_version: int | None = None) -> None:
        """Return once the certificate's line is durable. Many at once share a commit.

        Arguments:
            policy_version: as of ``LedgerLine``.

        Raises:
            PolicyChangedError: its namespace has another version by now; it has to be decided anew.
            ConflictError: its authority doesn't sign any more. In either case the certificate must not leave.
            RefusedError: its sidecar was evicted.
            UnavailableError: it isn't stored.
        """
        await self._lines.add(LedgerLine(record=record, policy_version=policy_version))

    async def write(self, lines: Sequence[LedgerLine]) -> Sequence[TouchmarkError | None]:
        """Write lines in one transaction; return for each None or why it isn't there.

        A line of an evicted sidecar is refused with ``RefusedError``, one whose authority neither is active nor was
        until lately with ``ConflictError``, one that was decided by another version of its namespace with
        ``PolicyChangedError``: its certificate must not leave. Retiring an authority counts what is alive
        in *its* transaction, and so does evicting, so that no certificate slips in between.
        """
        if not lines:
            return []
        if self._database.is_sqlite:
            return await self._database.write_in_thread(lambda driver: _write_in_sqlite(driver, lines))
        return await self._database.write_kept(lambda driver: _write_in_postgresql(driver, lines))

    async def get(self, serial: int) -> CertificateRecord | None:
        """Return the line of one serial number."""
        return await self._database.read(lambda connection: read_line(connection, serial))

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
            certificates.c.digest.in_({_digest(identity) for identity in identities}),
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


async def read_line(connection: AsyncConnection, serial: int) -> CertificateRecord | None:
    """Return the line of one serial number within a greater transaction."""
    row = (await _BY_SERIAL.on(connection, serial=_serial(serial))).first()
    return None if row is None else _record(row)


# The statements of ``Ledger.write``, in the drivers' words: SQLAlchemy takes longer than they do. ``{}`` is a list.
_JUDGE: Final = (
    f"SELECT 'phase', authority_id, phase FROM {authorities.name} WHERE authority_id {{}}"
    f" UNION ALL SELECT 'evicted', instance, '' FROM {evicted_sidecars.name} WHERE instance {{}}"
    f" UNION ALL SELECT 'version', namespace, CAST(version AS TEXT) FROM {namespaces.name} WHERE namespace {{}}"
)
_COLUMNS: Final = tuple(column.name for column in certificates.c)
_INSERT: Final = f"INSERT INTO {certificates.name} ({', '.join(_COLUMNS)})"
_TYPES: Final = [{"TEXT": "text", "DOUBLE": "float8", "BIGINT": "int8"}[str(column.type)] for column in certificates.c]
# SQLite takes lists as JSON, so that the statement is the same for any number.
_JUDGE_IN_SQLITE: Final = _JUDGE.format(*["IN (SELECT value FROM json_each(?))"] * 3)
_INSERT_IN_SQLITE: Final = f"{_INSERT} VALUES ({', '.join('?' * len(_COLUMNS))})"
_JUDGE_IN_POSTGRESQL: Final = _JUDGE.format("= ANY($1)", "= ANY($2)", "= ANY($3)")
_INSERT_IN_POSTGRESQL: Final = (
    f"{_INSERT} SELECT * FROM unnest({', '.join(f'${number}::{kind}[]' for number, kind in enumerate(_TYPES, 1))})"
)
# Retiring and evicting change these rows before they count what is alive: either they see the lines, or these see them.
# A statement of its own: one that waits for a lock sees nothing else of what was committed meanwhile.
_HOLD_IN_POSTGRESQL: Final = (
    f"WITH signing AS (SELECT 1 FROM {authorities.name} WHERE authority_id = ANY($1) FOR SHARE),"
    f" asking AS (SELECT 1 FROM {sidecars.name} WHERE instance = ANY($2) FOR SHARE)"
    " SELECT (SELECT count(*) FROM signing), (SELECT count(*) FROM asking)"
)


def _write_in_sqlite(driver: sqlite3.Connection, lines: Sequence[LedgerLine]) -> list[TouchmarkError | None]:
    # Its writers wait for each other: no row has to be held.
    asked = [msgspec.json.encode(each).decode() for each in _list_asked(lines)]
    faults = _find_faults(lines, driver.execute(_JUDGE_IN_SQLITE, asked))
    driver.executemany(_INSERT_IN_SQLITE, _list_rows(lines, faults))
    return faults


async def _write_in_postgresql(driver: Driver, lines: Sequence[LedgerLine]) -> list[TouchmarkError | None]:
    asked = _list_asked(lines)
    await driver.fetch(_HOLD_IN_POSTGRESQL, *asked[:2])
    faults = _find_faults(lines, await driver.fetch(_JUDGE_IN_POSTGRESQL, *asked))
    if columns := list(zip(*_list_rows(lines, faults), strict=True)):
        await driver.fetch(_INSERT_IN_POSTGRESQL, *columns)
    return faults


def _list_asked(lines: Sequence[LedgerLine]) -> tuple[list[str], list[str], list[str]]:
    """Return whose phases, evictions and versions the lines depend on: authorities, sidecars and namespaces."""
    records = [line.record for line in lines]
    return (
        sorted({record.authority_id for record in records}),
        sorted({record.instance for record in records}),
        sorted({record.identity.workload.namespace for record in records}),
    )


def _find_faults(lines: Sequence[LedgerLine], judged: Iterable[Sequence[str]]) -> list[TouchmarkError | None]:
    """Return for each line why it isn't written, or None.

    Arguments:
        judged: the rows of ``_JUDGE``.
    """
    known: dict[str, dict[str, str]] = {"phase": {}, "evicted": {}, "version": {}}
    for kind, name, value in judged:
        known[kind][name] = value
    return [
        _find_fault(line, known["phase"].get(line.record.authority_id, ""), known["evicted"], known["version"])
        for line in lines
    ]


def _find_fault(
    line: LedgerLine, phase: str, evicted: Mapping[str, str], versions: Mapping[str, str]
) -> TouchmarkError | None:
    record = line.record
    if record.instance in evicted:
        return RefusedError(f"the sidecar {record.instance[:100]} was evicted")
    if phase not in _SIGNING_PHASES:
        return ConflictError("the authority doesn't sign any more")
    namespace = record.identity.workload.namespace
    if line.policy_version is not None and int(versions.get(namespace, "0")) != line.policy_version:
        return PolicyChangedError(f"what namespace {namespace} says has changed meanwhile")
    return None


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


def _digest(identity: Identity) -> str:
    return identity.program.digest if identity.program is not None else ""


def _serial(serial: int) -> str:
    return f"{serial:x}"


def _list_rows(lines: Sequence[LedgerLine], faults: Sequence[TouchmarkError | None]) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of the lines without fault, in the order of ``_COLUMNS``."""
    for line, fault in zip(lines, faults, strict=True):
        if fault is None:
            values = _values(line.record)
            yield tuple([values[name] for name in _COLUMNS])


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
        "digest": _digest(record.identity),
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
