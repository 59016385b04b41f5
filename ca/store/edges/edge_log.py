"""Edges in the store: what each batch adds, which edges a namespace has. I/O.

Belongs here: the tables of edges. Doesn't: what a record adds (``tally.py``), what goes (``forgetting.py``), or how
both sides' views are joined (``ca/observation/edge_view.py``). A batch is added in the transaction that stores it,
which the store runs once for each batch and one after another. Longer than most: what is added and listed is said in
the same tables, for SQLite and PostgreSQL side by side.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any, Final

import msgspec
from sqlalchemy import bindparam, func, insert, select, text, union
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.store.edges.drafted import add_drafted, read_drafted
from ca.store.edges.edge import (
    DraftedWindow,
    EdgeEvidence,
    EdgeKey,
    EdgeWindow,
    HourOfNamespace,
    Report,
    ReportHour,
    StoredEdge,
    read_key,
)
from ca.store.edges.forgetting import Forgetting, estimate_bytes
from ca.store.edges.sums import bound_sum, prepare_sums
from ca.store.edges.tables import edge_hours, edge_reports, edges
from ca.store.edges.tally import (
    DAY_HOURS,
    HOUR_S,
    MAX_AHEAD_S,
    Addition,
    count_connections,
    digest_key,
    find_first_day,
    make_evidence,
    merge,
    tally,
    without_address,
)
from ca.store.edges.timeline import read_timeline
from ca.store.engine.database import PARTITIONS, Database
from ca.store.engine.prepared import Prepared, prepare_update
from shared.model.policy.decision import DecisionRecord
from shared.model.policy.rules import Direction

MAX_LISTED: Final = 20_000
# Of one namespace. Beyond the first number, ends without a name are no longer told apart by their addresses; beyond the
# second, what is new counts as lost.
MAX_STRANGERS: Final = 25_000
MAX_EDGES: Final = 50_000
# Never seen before, from one sidecar in one hour: it must not use up its namespace's room at once.
MAX_NEW_STRANGERS: Final = 100
MAX_NEW_EDGES: Final = 2_000
MAX_REPORTS: Final = 100_000
MAX_LOSSY_HOURS: Final = 31 * 24
_EVIDENCE_AGE_S: Final = 300.0
_Known = tuple[int, int, int, EdgeEvidence]  # ID, first and last hour.
_EDGE_ID: Final = 0  # Positions in what is selected of an edge.
_LAST: Final = 6
_FOUND: Final = select(edges.c.digest, edges.c.edge_id, edges.c.first_hour, edges.c.last_hour, edges.c.evidence)
# SQLite gets the digests as one text of JSON, so that the statement is the same for any number.
_FIND_KNOWN: Final = Prepared(
    _FOUND.where(edges.c.digest.in_(select(func.json_each(bindparam("digests", required=True)).table_valued("value")))),
    _FOUND.where(edges.c.digest.in_(bindparam("digests", expanding=True))),
)
_FIND_NEW: Final = Prepared(
    select(edge_reports.c.new_edges).where(
        edge_reports.c.instance == bindparam("instance"), edge_reports.c.hour == bindparam("hour")
    )
)
_COUNTS: Final = (
    Prepared(select(func.count()).where(edges.c.source_namespace == bindparam("namespace"))),
    Prepared(
        select(func.count()).where(
            edges.c.destination_namespace == bindparam("namespace"), edges.c.source_namespace != bindparam("namespace")
        )
    ),
)
_INSERT: Final = Prepared(
    insert(edges).values({column.name: bindparam(column.name) for column in edges.c if column is not edges.c.edge_id})
)
_RENEW: Final = prepare_update(edges, ("first_hour", "last_hour", "evidence"), edges.c.edge_id == bindparam("of_edge"))
_ADD_HOURS: Final = prepare_sums(
    edge_hours, ("edge_id", "hour"), added=("opened", "ended", "bytes_sent", "bytes_received")
)
_ADD_REPORTS: Final = prepare_sums(
    edge_reports,
    ("instance", "hour"),
    added=("records", "lost", "starts", "new_edges"),
    kept=("namespace", "service_account"),
)
_decode_evidence: Final = msgspec.json.Decoder(EdgeEvidence).decode


class EdgeLog:
    """Who talked to whom."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._forgetting = Forgetting(database)
        self._days: set[int] = set()  # PostgreSQL's partitions that are there.

    # ---- adding ---------------------------------------------------------------------------------------------------

    async def prepare(self, *, now: float) -> None:
        """Make PostgreSQL's partitions for what may be added around this time; SQLite needs none.

        In a transaction of its own, so that what is remembered is committed.
        """
        if self._database.is_sqlite:
            return
        first = find_first_day(now)
        last = int((now + MAX_AHEAD_S) // HOUR_S) // DAY_HOURS + 1
        missing = [day for day in range(first, last + 1) if day not in self._days]
        if not missing:
            return
        async with self._database.writing() as connection:
            # IF NOT EXISTS fails where another replica makes the same table at this moment.
            await self._database.take_turn(connection, PARTITIONS)
            await make_partitions(connection, missing)
        self._days = set(range(first, last + 1))

    async def add(
        self, connection: AsyncConnection, records: Sequence[DecisionRecord], report: Report, *, now: float
    ) -> None:
        """Add a batch, in the transaction that stores it; ``prepare`` was called before it began.

        Arguments:
            now: the CA's clock.
        """
        reporter = f"{report.namespace}/{report.service_account}"
        added = tally(records, reporter=reporter, now=now)
        known = await self._read_known(connection, added)
        hour = int(now // HOUR_S)
        fresh: dict[str, Addition] = {}
        new = lost = 0
        if len(known) < len(added):
            added, fresh, lost = await self._admit(connection, added, known, report, hour=hour)
            new = len(fresh)
            known |= await self._insert_new(connection, fresh)
        await self._renew(connection, {digest: each for digest, each in added.items() if digest not in fresh}, known)
        rows = [
            {
                "edge_id": known[digest][0],
                "hour": each_hour,
                "opened": total.opened,
                "ended": total.ended,
                "bytes_sent": total.bytes_sent,
                "bytes_received": total.bytes_received,
                "first": total.first,
                "last": total.last,
            }
            for digest, addition in added.items()
            for each_hour, total in addition.sums.items()
        ]
        if rows:
            await _ADD_HOURS.on_each(connection, sorted(rows, key=itemgetter("edge_id", "hour")))
        by_edge = {known[digest][0]: addition for digest, addition in added.items()}
        await add_drafted(connection, by_edge)
        await self._note_report(connection, records, report, lost=lost, new=new, now=now)

    async def _read_known(self, connection: AsyncConnection, added: dict[str, Addition]) -> dict[str, _Known]:
        if not added:
            return {}
        digests = msgspec.json.encode(list(added)).decode() if self._database.is_sqlite else list(added)
        return {
            digest: (edge_id, first_hour, last_hour, _decode_evidence(evidence))
            for digest, edge_id, first_hour, last_hour, evidence in await _FIND_KNOWN.on(connection, digests=digests)
        }

    async def _admit(
        self,
        connection: AsyncConnection,
        added: dict[str, Addition],
        known: dict[str, _Known],
        report: Report,
        *,
        hour: int,
    ) -> tuple[dict[str, Addition], dict[str, Addition], int]:
        """Return what is added, which of it is new, and how many connections have no room."""
        before = int((await _FIND_NEW.on(connection, instance=_text(report.instance), hour=hour)).scalar() or 0)
        count = await self._count_edges(connection, report.namespace)
        admitted = {digest: each for digest, each in added.items() if digest in known}
        fresh: dict[str, Addition] = {}
        lost = 0
        for digest, addition in added.items():
            if digest in known:
                continue
            new = before + len(fresh)
            collapsed = without_address(addition)
            if collapsed is not None and (new >= MAX_NEW_STRANGERS or count + len(fresh) >= MAX_STRANGERS):
                digest, addition = digest_key(collapsed.key), collapsed
                if digest not in known:
                    known |= await self._read_known(connection, {digest: addition})
            if digest not in known and digest not in fresh:
                if new >= MAX_NEW_EDGES or count + len(fresh) >= MAX_EDGES:
                    lost += count_connections(addition)
                    continue
                fresh[digest] = addition
            elif digest in fresh:
                addition = fresh[digest] = merge(fresh[digest], addition)
                admitted[digest] = addition
                continue
            admitted[digest] = merge(admitted[digest], addition) if digest in admitted else addition
        return admitted, fresh, lost

    async def _count_edges(self, connection: AsyncConnection, namespace: str) -> int:
        return sum([int((await each.on(connection, namespace=namespace)).scalar() or 0) for each in _COUNTS])

    async def _insert_new(self, connection: AsyncConnection, fresh: dict[str, Addition]) -> dict[str, _Known]:
        if not fresh:
            return {}
        rows = []
        for digest, addition in fresh.items():
            key = addition.key
            rows.append(
                {
                    "digest": digest,
                    "source_namespace": _find_namespace(key, Direction.EGRESS),
                    "destination_namespace": _find_namespace(key, Direction.INGRESS),
                    "first_hour": min(addition.sums),
                    "last_hour": max(addition.sums),
                    "description": msgspec.json.encode(key).decode(),
                    "evidence": msgspec.json.encode(make_evidence(addition, EdgeEvidence())).decode(),
                }
            )
        await _INSERT.on_each(connection, rows)
        return await self._read_known(connection, fresh)

    async def _renew(
        self,
        connection: AsyncConnection,
        added: dict[str, Addition],
        known: dict[str, _Known],
    ) -> None:
        """Renew what was seen last of edges: seldom, since each rewrites a row."""
        rows = []
        for digest, addition in sorted(added.items(), key=lambda each: known[each[0]][0]):
            edge_id, first_hour, last_hour, before = known[digest]
            oldest, newest = min(addition.sums), max(addition.sums)
            is_new_pod = addition.newest.sidecar not in before.pods
            is_recent = addition.newest_time < before.time + _EVIDENCE_AGE_S
            if first_hour <= oldest and newest <= last_hour and not is_new_pod and is_recent:
                continue
            evidence = make_evidence(addition, before)
            rows.append(
                {
                    "of_edge": edge_id,
                    "first_hour": min(oldest, first_hour),
                    "last_hour": max(newest, last_hour),
                    "evidence": msgspec.json.encode(evidence).decode(),
                }
            )
        if rows:
            await _RENEW.on_each(connection, rows)

    async def _note_report(
        self,
        connection: AsyncConnection,
        records: Sequence[DecisionRecord],
        report: Report,
        *,
        lost: int,
        new: int,
        now: float,
    ) -> None:
        """Note what the sidecar reported. What it lost may be of any hour since its last report: each is marked."""
        hour = int(now // HOUR_S)
        instance = _text(report.instance)
        row = {
            "instance": instance,
            "hour": hour,
            "namespace": report.namespace,
            "service_account": report.service_account,
            "records": sum(record.count for record in records),
            "lost": lost,
            "starts": int(report.is_first),
            "new_edges": new,
            "first": now,
            "last": now,
        }
        rows = [row]
        if report.lost:
            mine = edge_reports.c.instance == instance
            before = await connection.scalar(select(func.max(edge_reports.c.hour)).where(mine))
            since = max(hour - MAX_LOSSY_HOURS, int(before)) if before is not None else hour
            empty = {"records": 0, "starts": 0, "new_edges": 0}
            rows = [{**row, **empty, "lost": 1, "hour": each} for each in range(since, hour)]
            # The sum stays what was lost, where each hour's share is at least 1.
            rows.append({**row, "lost": max(1, bound_sum(report.lost) - len(rows)) + lost})
        await _ADD_REPORTS.on_each(connection, rows)

    # ---- asking ---------------------------------------------------------------------------------------------------

    async def list_edges(
        self, namespace: str, *, since: float, until: float = math.inf, limit: int = MAX_LISTED
    ) -> EdgeWindow:
        """Return each side's view of the edges of which at least one end is in the namespace, summed over the window.

        Arguments:
            since, until: seconds since the epoch; the window is widened to whole hours.
        """
        first, last = _find_hours(since, until)
        limit = max(0, min(limit, MAX_LISTED))
        then = (edges.c.last_hour >= first, edges.c.first_hour < last)
        ours = union(
            select(edges.c.edge_id).where(edges.c.source_namespace == namespace, *then),
            select(edges.c.edge_id).where(edges.c.destination_namespace == namespace, *then),
        )
        columns = edge_hours.c
        summed = (
            select(
                columns.edge_id,
                *(func.sum(columns[name]).label(name) for name in ("opened", "ended", "bytes_sent", "bytes_received")),
                func.min(columns["first"]).label("first"),
                func.max(columns["last"]).label("last"),
            )
            .where(columns.edge_id.in_(ours), columns.hour >= first, columns.hour < last)
            .group_by(columns.edge_id)
            .order_by(func.max(columns["last"]).desc(), columns.edge_id)
            .limit(limit + 1)
            .subquery()
        )
        query = select(summed, edges.c.description, edges.c.evidence).join(edges, edges.c.edge_id == summed.c.edge_id)
        async with self._database.reading() as connection:
            rows = list(await connection.execute(query))
            lossy = await _find_lossy(connection, first, last)
        # Reading thousands of descriptions takes tens of milliseconds, in which the event loop would do nothing else.
        found = await asyncio.to_thread(_make_edges, rows, limit, lossy)
        end = until if math.isinf(until) else last * HOUR_S
        return EdgeWindow(
            edges=tuple(found), since=float(first * HOUR_S), until=float(end), is_truncated=len(rows) > limit
        )

    async def list_drafted(self, namespace: str, number: int, *, written: float) -> DraftedWindow:
        """Return what was decided while a namespace's draft was evaluated beside it (``drafted.py``)."""
        return await read_drafted(self._database, namespace, number, written=written)

    async def list_timeline(self, namespace: str, *, since: float, until: float) -> list[HourOfNamespace]:
        """Return what the namespace's own sidecars decided, by the hour, oldest first (``timeline.py``)."""
        first, last = _find_hours(since, until)
        return await read_timeline(self._database, namespace, first=first, last=last)

    async def list_reports(self, namespace: str, *, since: float) -> list[ReportHour]:
        """Return what the namespace's sidecars reported, by instance and hour, at most ``MAX_REPORTS``."""
        query = (
            select(edge_reports)
            .where(edge_reports.c.namespace == namespace, edge_reports.c.hour >= int(since // HOUR_S))
            .order_by(edge_reports.c.hour.desc(), edge_reports.c.instance)
            .limit(MAX_REPORTS)
        )
        async with self._database.reading() as connection:
            return [
                ReportHour(
                    instance=row.instance,
                    hour=row.hour,
                    namespace=row.namespace,
                    service_account=row.service_account,
                    records=row.records,
                    lost=row.lost,
                    starts=row.starts,
                    first=row.first,
                    last=row.last,
                )
                for row in await connection.execute(query)
            ]

    # ---- forgetting -----------------------------------------------------------------------------------------------

    async def estimate_bytes(self) -> tuple[int, int]:
        """Return about how many bytes the edges take, and which hour is the oldest; 0 when there is none."""
        return await estimate_bytes(self._database)

    async def prune(self, *, max_age_s: float, max_bytes: int, now: float) -> int:
        """Forget hours that are too old, or a day that is too much, the oldest; return how much went.

        One call forgets a bounded number: call again while it returns more than 0. Hours that went for their size keep
        their reports, marked: something of them is lost.
        """
        return await self._forgetting.prune(max_age_s=max_age_s, max_bytes=max_bytes, now=now)


async def make_partitions(connection: AsyncConnection, days: Iterable[int]) -> None:
    """Make PostgreSQL's partitions of these days, unless they are there."""
    for day in days:
        await connection.execute(
            text(
                f"CREATE TABLE IF NOT EXISTS {_name_partition(day)} PARTITION OF edge_hours "
                f"FOR VALUES FROM ({day * DAY_HOURS}) TO ({(day + 1) * DAY_HOURS})"
            )
        )


def find_day(hour: int) -> int:
    """Return the day, and so the partition, of an hour."""
    return hour // DAY_HOURS


async def _find_lossy(connection: AsyncConnection, first: int, last: int) -> frozenset[str]:
    """Return the workloads whose sidecars lost records in these hours."""
    columns = edge_reports.c
    query = (
        select(columns.namespace, columns.service_account)
        .where(columns.hour >= first, columns.hour < last, text("lost > 0"))
        .distinct()
    )
    return frozenset(f"{row.namespace}/{row.service_account}" for row in await connection.execute(query))


def _make_edges(rows: list[Any], limit: int, lossy: frozenset[str]) -> list[StoredEdge]:
    """Return the edges, seen last first; equal ones in the order of their IDs."""
    # By position, twice: a row's columns by name take longer than sorting.
    rows.sort(key=itemgetter(_EDGE_ID))
    rows.sort(key=itemgetter(_LAST), reverse=True)
    return [_make_edge(row, lossy) for row in rows[:limit]]


def _make_edge(row: Any, lossy: frozenset[str]) -> StoredEdge:
    # As a tuple: a row's columns by name take longer than all else here.
    edge_id, opened, ended, bytes_sent, bytes_received, first, last, description, evidence = row
    key = read_key(description)
    own = key.source if key.side is Direction.EGRESS else key.destination
    return StoredEdge(
        edge_id=edge_id,
        key=key,
        evidence=_decode_evidence(evidence),
        opened=int(opened),
        ended=int(ended),
        bytes_sent=int(bytes_sent),
        bytes_received=int(bytes_received),
        first=first,
        last=last,
        is_lossy=bool(lossy) and (own.workload or own.listed) in lossy,
    )


def _find_hours(since: float, until: float) -> tuple[int, int]:
    far = 2**31 - 1
    first = max(0, min(int(since // HOUR_S), far))
    return first, far if math.isinf(until) else max(first, min(math.ceil(until / HOUR_S), far))


def _find_namespace(key: EdgeKey, end: Direction) -> str:
    if key.side is end:
        return key.namespace
    party = key.source if end is Direction.EGRESS else key.destination
    return (party.workload or party.listed).partition("/")[0]


def _name_partition(day: int) -> str:
    return f"edge_hours_{day:d}"


def _text(value: str) -> str:
    """Return the text as PostgreSQL takes it: without NUL."""
    return value.replace("\0", "\ufffd")
