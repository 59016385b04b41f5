"""Decisions in the store: inserted in batches, filtered, pruned by age and number. I/O.

What no index has is looked for in portions of the log, so that no statement takes as long as the log is: an index for
each thing that can be asked for would make each decision dearer than it may be.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, TextClause, and_, bindparam, delete, func, or_, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.store.edges.edge import Report
from ca.store.edges.edge_log import EdgeLog
from ca.store.engine.database import DECISIONS, Database
from ca.store.engine.prepared import Prepared, prepare_update
from ca.store.records import DecisionFilter, StoredDecision
from ca.store.tables import DENIED, DIFFERS, DRAFTED, REFUSED, UNUSUAL, WOULD_DENY, decisions, sidecars
from shared.model.errors import UnavailableError
from shared.model.policy.decision import Answer, DecisionRecord, DraftChange, compare_draft
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction

MAX_LISTED: Final = 10_000
# Of a search whose filter no index has as a whole, in one portion of the log.
LOOKED_AT_ONCE: Final = 5_000
_decoder: Final = msgspec.json.Decoder(DecisionRecord)
_encoder: Final = msgspec.json.Encoder()
_MINE: Final = sidecars.c.instance == bindparam("of_instance")
_FIND_LAST_BATCH: Final = Prepared(select(sidecars.c.last_batch).where(_MINE))
_NOTE_LAST_BATCH: Final = prepare_update(sidecars, ("last_batch",), _MINE)
_FIND_LAST_ID: Final = Prepared(select(func.max(decisions.c.decision_id)))
# Records in one transaction while certificates wait for SQLite's writer.
PART: Final = 100
_PRUNED_AT_ONCE: Final = 5_000
_PRUNED_ON_FULL_DISK: Final = 200  # What a transaction changes is written to SQLite's log first.
_SAMPLED: Final = 200
# What a row takes beside its record: its other columns and its lines in indexes.
_ROW_BYTES: Final = 700
_Condition = ColumnElement[bool] | TextClause


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a portion of the log has of what is wanted.

    Attributes:
        found: newest first, or in the order of their IDs after ``after_id``.
        rest: what is left to be looked for, behind this portion; None: nothing.
    """

    found: list[StoredDecision]
    rest: DecisionFilter | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """An index in the order of time, and what it has of a filter.

    Attributes:
        ranges: what is read of it: conditions that are in the index.
        covered: which of the filter's conditions hold for all that is in the ranges.
    """

    ranges: tuple[tuple[_Condition, ...], ...]
    covered: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPart:
    """What of a batch one transaction has stored: the records from ``begin`` up to ``end``.

    Attributes:
        last_id: the highest ID in the log.
    """

    last_id: int
    begin: int
    end: int


class DecisionLog:
    """What the sidecars reported."""

    def __init__(self, database: Database, *, edges: EdgeLog, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._edges = edges
        self._clock = clock

    async def insert(
        self, records: Sequence[DecisionRecord], *, on_commit: Callable[[int | None], None] = lambda _: None
    ) -> int:
        """Store records and what they add to the edges in one transaction; return the highest ID in the log.

        Each is its own end's report.

        Arguments:
            on_commit: as of ``Database.write``: is called with what is returned.

        Raises:
            UnavailableError: the store fails, or its disk is full: what room is left belongs to the ledger.
        """
        texts = [encode_record(record) for record in records]
        await self._prepare()
        return await self._database.write(
            lambda connection: self._insert(connection, records, texts, None), on_commit=on_commit, is_long=True
        )

    async def insert_batch(
        self,
        records: Sequence[DecisionRecord],
        report: Report,
        *,
        texts: Sequence[str],
        digest: str,
        on_commit: Callable[[StoredPart | None], None] = lambda _: None,
    ) -> int | None:
        """Store a sidecar's batch as ``insert``, unless it is the one that was stored last from it: return None then.

        A sidecar has one batch on its way, and sends it again until it is acknowledged. While certificates wait for the
        same writer it is stored in parts, each with a mark of how far it has come: what is sent again goes on there.

        Arguments:
            report: whose records they are.
            texts: records as JSON, which their reader had to write anyway. Where there are fewer than records, the
                further ones only count in the edges.
            digest: of the batch's content and number.
            on_commit: is called for each part; None: all of it was stored before.

        Raises:
            UnavailableError: as ``insert``.
        """

        async def write(connection: AsyncConnection) -> StoredPart | None:
            mark = (await _FIND_LAST_BATCH.on(connection, of_instance=report.instance)).scalar()
            if mark == digest:
                return None
            begin = _find_begin(mark, digest, otherwise=0 if stored is None else stored.end)
            size = PART if self._database.is_pressed else len(records)
            end = min(begin + size, len(records))
            mark = digest if end == len(records) else f"{digest}:{end}"
            await _NOTE_LAST_BATCH.on(connection, of_instance=report.instance, last_batch=mark)
            its = report if begin == 0 else replace(report, lost=0, is_first=False)
            last_id = await self._insert(connection, records[begin:end], texts[begin:end], its)
            return StoredPart(last_id=last_id, begin=begin, end=end)

        stored: StoredPart | None = None
        while stored is None or stored.end < len(records):
            await self._prepare()
            stored = await self._database.write(write, on_commit=on_commit, is_long=True)
            if stored is None:
                return None
        return stored.last_id

    async def _prepare(self) -> None:
        if self._database.is_disk_full:
            raise UnavailableError(
                "the CA's disk is full: it takes no decisions", hint="give the store more room, or keep fewer decisions"
            )
        await self._edges.prepare(now=self._clock())

    async def _insert(
        self,
        connection: AsyncConnection,
        records: Sequence[DecisionRecord],
        texts: Sequence[str],
        report: Report | None,
    ) -> int:
        if records or (report is not None and report.lost):
            # IDs become visible in their order: who follows the log by ID would miss one that commits late.
            await self._database.take_turn(connection, DECISIONS)
        if rows := [_list_values(record, text) for record, text in zip(records, texts, strict=False)]:
            await connection.exec_driver_sql(_INSERT if self._database.is_sqlite else _INSERT_IN_POSTGRESQL, rows)
        now = self._clock()
        if report is not None:
            await self._edges.add(connection, records, report, now=now)
        else:
            for each, its_records in _group_by_reporter(records).items():
                await self._edges.add(connection, its_records, each, now=now)
        return int((await _FIND_LAST_ID.on(connection)).scalar() or 0)

    async def get_last_id(self) -> int:
        """Return the highest ID in the log; 0 when it is empty."""
        async with self._database.reading() as connection:
            return int(await connection.scalar(select(func.max(decisions.c.decision_id))) or 0)

    async def query(self, wanted: DecisionFilter) -> list[StoredDecision]:
        """Return the decisions that the filter names: newest first, or in the order of their IDs after ``after_id``.

        Where no index has what is asked for it looks on, portion by portion, each in a transaction of its own.
        """
        limit = max(0, min(wanted.limit, MAX_LISTED))
        found: list[StoredDecision] = []
        rest: DecisionFilter | None = replace(wanted, limit=limit)
        while rest is not None and len(found) < limit:
            look = await self.look(replace(rest, limit=limit - len(found)))
            found += look.found
            rest = look.rest
        return found

    async def look(self, wanted: DecisionFilter) -> Look:
        """Return what the next portion of the log has, at most ``LOOKED_AT_ONCE`` decisions.

        What one index has as a whole is no more than the limit: it is there at once, however long the log is.
        """
        limit = max(0, min(wanted.limit, MAX_LISTED))
        async with self._database.reading() as connection:
            if wanted.after_id is not None:
                return await _look_on(connection, wanted, wanted.after_id, limit)
            return await _look_back(connection, wanted, limit)

    async def list_refusals(self, namespace: str, *, since: float, limit: int) -> list[DecisionRecord]:
        """Return what this namespace's sidecars refused or marked since then, newest first, at most ``limit``."""
        query = (
            select(decisions.c.record)
            .where(decisions.c.namespace == namespace, decisions.c.time >= since, REFUSED)
            .order_by(decisions.c.time.desc(), decisions.c.decision_id.desc())
            .limit(limit)
        )
        async with self._database.reading() as connection:
            return [_decoder.decode(record) for record in await connection.scalars(query)]

    async def list_reporting_sidecars(self, namespace: str, *, since: float) -> frozenset[str]:
        """Return the instances that reported any decision for the namespace since then."""
        query = (
            select(decisions.c.sidecar).distinct().where(decisions.c.namespace == namespace, decisions.c.time >= since)
        )
        async with self._database.reading() as connection:
            return frozenset(await connection.scalars(query))

    async def estimate_size(self) -> tuple[int, float]:
        """Return about how many decisions there are, and how many bytes each takes on disk, by a sample."""
        columns = decisions.c
        async with self._database.reading() as connection:
            first = int(await connection.scalar(select(func.min(columns.decision_id))) or 0)
            last = int(await connection.scalar(select(func.max(columns.decision_id))) or 0)
            step = max(1, (last - first + 1) // _SAMPLED)
            sample = select(func.avg(func.length(columns.record))).where(
                columns.decision_id.in_(range(last, max(last - step * _SAMPLED, first - 1), -step))
            )
            average = float(await connection.scalar(sample) or 0.0)
        return (last - first + 1 if last else 0), average + _ROW_BYTES

    async def prune(self, *, max_age_s: float, max_rows: int, now: float) -> int:
        """Forget decisions that are too old or too many, oldest first; return how many.

        One call forgets a bounded number, so that no writer waits long: call again while it returns more than 0.
        """
        columns = decisions.c
        at_once = _PRUNED_ON_FULL_DISK if self._database.is_disk_full else _PRUNED_AT_ONCE
        async with self._database.reading() as connection:
            last = int(await connection.scalar(select(func.max(columns.decision_id))) or 0)
            # Two queries, each by its index. IDs are given in order and never twice: the newest max_rows rows are above
            # last - max_rows.
            too_old = select(columns.decision_id).where(columns.time < now - max_age_s).order_by(columns.time)
            too_many = select(columns.decision_id).where(columns.decision_id <= last - max_rows)
            gone: set[int] = set()
            for query in (too_old, too_many.order_by(columns.decision_id)):
                gone.update(await connection.scalars(query.limit(at_once - len(gone))))
        if not gone:
            return 0
        async with self._database.writing() as connection:
            return (await connection.execute(delete(decisions).where(columns.decision_id.in_(gone)))).rowcount


def _find_begin(mark: str | None, digest: str, *, otherwise: int) -> int:
    """Return where a batch goes on, by the mark of what was stored last from its sidecar.

    Arguments:
        otherwise: where it is of another batch, or the sidecar is gone.
    """
    of, _, count = (mark or "").partition(":")
    return int(count) if of == digest and count else otherwise


def _group_by_reporter(records: Sequence[DecisionRecord]) -> dict[Report, list[DecisionRecord]]:
    groups: dict[Report, list[DecisionRecord]] = {}
    for record in records:
        own = record.source if record.direction is Direction.EGRESS else record.destination
        account = (own.workload or own.listed).partition("/")[2]
        report = Report(instance=record.sidecar, namespace=record.namespace, service_account=account)
        groups.setdefault(report, []).append(record)
    return groups


async def _look_on(connection: AsyncConnection, wanted: DecisionFilter, after: int, limit: int) -> Look:
    """Look at the next IDs, whatever is wanted of them."""
    columns = decisions.c
    # Never given twice, and not without gaps: what was forgotten needn't be gone through.
    first = await connection.scalar(select(func.min(columns.decision_id)).where(columns.decision_id > after))
    if first is None:
        return Look(found=[], rest=None)
    until = int(first) - 1 + LOOKED_AT_ONCE
    conditions = _list_conditions(wanted)
    query = (
        select(columns.decision_id, columns.record)
        .where(columns.decision_id > after, columns.decision_id <= until)
        .where(*_apart(conditions.values()), *_list_bounds(wanted))
        .order_by(columns.decision_id)
        .limit(limit)
    )
    found = _read((await connection.execute(query)).all())
    if len(found) == limit and found:
        return Look(found=found, rest=replace(wanted, after_id=found[-1].decision_id))
    is_last = until >= int((await _FIND_LAST_ID.on(connection)).scalar() or 0)
    return Look(found=found, rest=None if is_last else replace(wanted, after_id=until))


async def _look_back(connection: AsyncConnection, wanted: DecisionFilter, limit: int) -> Look:
    """Look at the newest that one index has."""
    conditions = _list_conditions(wanted)
    way, since = await _choose_way(connection, wanted, conditions)
    columns = decisions.c
    query = select(columns.decision_id, columns.record, columns.time).where(*_list_bounds(wanted))
    query = query.where(*_apart(each for name, each in conditions.items() if name not in way.covered))
    if since is not None:
        query = query.where(columns.time >= since)
    query = query.order_by(columns.time.desc(), columns.decision_id.desc()).limit(limit)
    found: dict[int, Any] = {}
    for within in way.ranges:  # One query for each: it reads its index in order, and no more of it than the limit.
        found.update((row[0], row) for row in await connection.execute(query.where(*within)))
    rows = list(found.values())
    if len(way.ranges) > 1:
        rows.sort(key=lambda row: (row.time, row.decision_id), reverse=True)
    rest = None if since is None or len(rows) >= limit else replace(wanted, until=since)
    return Look(found=_read(rows[:limit]), rest=rest)


async def _choose_way(
    connection: AsyncConnection, wanted: DecisionFilter, conditions: Mapping[str, _Condition]
) -> tuple[_Way, float | None]:
    """Return by which index to look, and back to when; None: as far as its ranges go."""
    ways = list(_list_ways(wanted))
    for way in ways:
        if conditions.keys() <= way.covered:
            return way, None
    columns, best = decisions.c, None
    for way in ways:
        reaches = []
        for within in way.ranges:
            newest = select(columns.time).where(*within, *_list_bounds(wanted))
            newest = newest.order_by(columns.time.desc(), columns.decision_id.desc())
            reaches.append(await connection.scalar(newest.offset(LOOKED_AT_ONCE // len(way.ranges)).limit(1)))
        known = [float(each) for each in reaches if each is not None]
        if not known:
            return way, None
        if best is None or max(known) < best[1]:
            best = way, max(known)
    assert best is not None  # The log itself is a way.
    return best


def _list_ways(wanted: DecisionFilter) -> Iterator[_Way]:
    """Yield the indexes that have some of what is wanted, and the whole log in the order of time as the last one."""
    columns = decisions.c
    within = columns.namespace == wanted.namespace
    if wanted.namespace and (wanted.denied or wanted.would_deny):
        yield _Way(ranges=((within, REFUSED),), covered=frozenset({"namespace"}))
    if wanted.namespace and wanted.draft_differs:
        yield _Way(ranges=((within, DRAFTED),), covered=frozenset({"namespace"}))
    for name, condition in (("denied", DENIED), ("would_deny", WOULD_DENY), ("draft_differs", DIFFERS)):
        if getattr(wanted, name):
            yield _Way(ranges=((condition,),), covered=frozenset({name}))
    if wanted.reason is not None and wanted.reason not in (Reason.ALLOW_RULE, Reason.SAME_GROUP):
        yield _Way(ranges=((columns.reason == wanted.reason.value, UNUSUAL),), covered=frozenset({"reason"}))
    if wanted.workload:
        ends = (columns.source_workload, columns.destination_workload)
        yield _Way(ranges=tuple((end == wanted.workload,) for end in ends), covered=frozenset({"workload"}))
    if wanted.namespace:
        yield _Way(ranges=((within,),), covered=frozenset({"namespace"}))
    yield _Way(ranges=((),))


def _list_conditions(wanted: DecisionFilter) -> dict[str, ColumnElement[bool]]:
    """Return what the filter asks, but for times and IDs, by its fields' names."""
    columns = decisions.c
    conditions: dict[str, ColumnElement[bool]] = {}
    if wanted.namespace:
        conditions["namespace"] = columns.namespace == wanted.namespace
    if wanted.workload:
        conditions["workload"] = or_(
            columns.source_workload == wanted.workload, columns.destination_workload == wanted.workload
        )
    if wanted.program:
        conditions["program"] = or_(
            columns.source_program.startswith(wanted.program, autoescape=True),
            columns.destination_program.startswith(wanted.program, autoescape=True),
        )
    if wanted.reason is not None:
        conditions["reason"] = columns.reason == wanted.reason.value
    if wanted.denied is not None:
        is_denied = columns.answer == Answer.DENY.value
        conditions["denied"] = is_denied if wanted.denied else ~is_denied
    if wanted.would_deny is not None:
        conditions["would_deny"] = columns.would_deny.is_(wanted.would_deny)
    if wanted.draft_differs is not None:
        differs = columns.draft.in_([DraftChange.DENIED.value, DraftChange.ALLOWED.value])
        conditions["draft_differs"] = differs if wanted.draft_differs else ~differs
    return conditions


def _list_bounds(wanted: DecisionFilter) -> list[ColumnElement[bool]]:
    bounds = []
    if wanted.since is not None:
        bounds.append(decisions.c.time >= wanted.since)
    if wanted.until is not None:
        bounds.append(decisions.c.time < wanted.until)
    return bounds


def _apart(conditions: Iterable[ColumnElement[bool]]) -> Iterator[ColumnElement[bool]]:
    """Yield the conditions in words for which no index is chosen: another one is read, up to where it was bounded."""
    for condition in conditions:
        yield and_(condition).self_group().is_(true())


def _read(rows: Iterable[Any]) -> list[StoredDecision]:
    return [StoredDecision(decision_id=row[0], record=_decoder.decode(row[1])) for row in rows]


# In the order of ``_list_values``.
_COLUMNS: Final = (
    "time", "namespace", "sidecar", "answer", "would_deny", "reason", "source_workload", "destination_workload",
    "source_program", "destination_program", "port", "connection", "count", "record", "draft",
)  # fmt: skip
# In the drivers' words: what SQLAlchemy does with each row's parameters took as long as the rest of the insertion.
_INSERT: Final = f"INSERT INTO decisions ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
_INSERT_IN_POSTGRESQL: Final = (
    f"INSERT INTO decisions ({', '.join(_COLUMNS)}) "
    f"VALUES ({', '.join(f'${number}' for number in range(1, len(_COLUMNS) + 1))})"
)


def encode_record(record: DecisionRecord) -> str:
    """Return a record as it is stored: JSON, which escapes what PostgreSQL doesn't take."""
    return _encoder.encode(record).decode()


def _list_values(record: DecisionRecord, text: str) -> tuple[Any, ...]:
    source, destination = record.source, record.destination
    return (
        record.time,
        _text(record.namespace),
        _text(record.sidecar),
        record.answer.value,
        record.would_deny,
        record.reason.value,
        _text(source.workload or source.listed),
        _text(destination.workload or destination.listed),
        _text(source.program),
        _text(destination.program),
        record.port,
        _text(record.connection),
        record.count,
        text,
        compare_draft(record).value,
    )


def _text(text: str) -> str:
    """Return the text as PostgreSQL takes it: without NUL, which would have the whole batch refused for ever."""
    return text.replace("\0", "\ufffd")
