"""Forgets edges in portions: hours that are too old, or a day that is too much, and what hung on them. I/O.

Belongs here: how much there is, and what goes. Doesn't: when, and how much may stay
(``ca/observation/edge_retention.py``), or what is added (``edge_log.py``). What goes is found by an index, or while
nobody waits for a writer.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import bindparam, delete, exists, func, select, text, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.store.edges.drafted import DraftedKey, forget_drafted
from ca.store.edges.tables import edge_hours, edge_reports, edges
from ca.store.edges.tally import DAY_HOURS, HOUR_S, find_first_day
from ca.store.engine.database import Database

_PRUNED_AT_ONCE: Final = 2_000
_SAMPLED: Final = 200
# Of PostgreSQL, to which the smallest index is no help: it looks each row up in the order of an index, or reads all.
_COUNTED_AT_ONCE: Final = 200_000
# What rows take beside their texts, with their lines in indexes.
_EDGE_BYTES: Final = 350
_HOUR_BYTES: Final = 90
# Of PostgreSQL's hours to what their rows take without indexes.
_WITH_INDEXES: Final = 1.8
# One by one: SQLite looks for a list of keys of several columns by reading the table.
_MARK: Final = (
    update(edge_reports)
    .where(
        edge_reports.c.instance == bindparam("of_instance"),
        edge_reports.c.hour == bindparam("of_hour"),
        edge_reports.c.lost == 0,
    )
    .values(lost=1)
)
_PARTITIONS: Final = text(
    "SELECT inhrelid::regclass::text AS name, pg_relation_size(inhrelid) AS size"
    " FROM pg_inherits WHERE inhparent = 'edge_hours'::regclass"
)


async def estimate_bytes(database: Database) -> tuple[int, int]:
    """Return about how many bytes the edges take, and which hour is the oldest; 0 when there is none."""
    length = func.length(edges.c.description) + func.length(edges.c.evidence)
    async with database.reading() as connection:
        first = int(await connection.scalar(select(func.min(edges.c.edge_id))) or 0)
        last = int(await connection.scalar(select(func.max(edges.c.edge_id))) or 0)
        count = await _count_edges(connection, first, last, at_once=last if database.is_sqlite else _COUNTED_AT_ONCE)
        step = max(1, (last - first + 1) // _SAMPLED)
        sample = edges.c.edge_id.in_(range(last, max(last - step * _SAMPLED, first - 1), -step))
        texts = float(await connection.scalar(select(func.avg(length)).where(sample)) or 0.0)
        oldest = int(await connection.scalar(select(func.min(edge_hours.c.hour))) or 0)
        if database.is_sqlite:
            hours = _HOUR_BYTES * await _count_hours(connection)
        else:  # To ask for files' sizes takes no time, whatever is in them.
            hours = int(_WITH_INDEXES * sum(row.size for row in await connection.execute(_PARTITIONS)))
    return int(count * (texts + _EDGE_BYTES)) + hours, oldest


async def _count_edges(connection: AsyncConnection, first: int, last: int, *, at_once: int) -> int:
    """Return how many there are, counted so many IDs at once; ``last`` at once: as a whole, by the smallest index."""
    count, column = select(func.count()).select_from(edges), edges.c.edge_id
    if last <= at_once:
        return int(await connection.scalar(count) or 0)
    total = 0
    for begin in range(first, last + 1, at_once):
        total += int(await connection.scalar(count.where(column >= begin, column < begin + at_once)) or 0)
    return total


async def _count_hours(connection: AsyncConnection) -> int:
    return int(await connection.scalar(select(func.count()).select_from(edge_hours)) or 0)


class Forgetting:
    """Forgets; remembers only how far it has come with what drafts said."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._drafted_until: DraftedKey | None = None

    async def prune(self, *, max_age_s: float, max_bytes: int, now: float) -> int:
        """Forget some; return how much. Arguments are those of ``EdgeLog.prune``."""
        too_old = before = int((now - max_age_s) // HOUR_S)
        size, oldest = await estimate_bytes(self._database)
        if size > max_bytes and oldest:
            before = max(before, (oldest // DAY_HOURS + 1) * DAY_HOURS)
            # First: what is to go is still known by its hour, should this end in between.
            if (marked := await self._mark_reports(max(too_old, oldest), before)) >= _PRUNED_AT_ONCE:
                return marked
        if self._database.is_sqlite:
            if (gone := await self._delete_hours(before)) >= _PRUNED_AT_ONCE:
                return gone  # Edges go when their hours have: else each would be looked for again and again.
        else:
            gone = await self._drop_partitions(before, now)
        gone += await self._delete_edges(before)
        gone += await self._delete_reports(too_old)
        drafted, self._drafted_until = await forget_drafted(self._database, after=self._drafted_until)
        return gone + drafted

    async def _mark_reports(self, first: int, before: int) -> int:
        """Mark reports of these hours, of which something is lost now; return how many weren't marked."""
        columns = edge_reports.c
        query = select(columns.instance, columns.hour).where(
            columns.hour >= first, columns.hour < before, columns.lost == 0
        )
        async with self._database.reading() as connection:
            rows = await connection.execute(query.limit(_PRUNED_AT_ONCE))
            found = [{"of_instance": row.instance, "of_hour": row.hour} for row in rows]
        if not found:
            return 0
        async with self._database.writing() as connection:
            await connection.execute(_MARK, found)
        return len(found)

    async def _delete_hours(self, before: int) -> int:
        columns = edge_hours.c
        old = select(columns.edge_id, columns.hour).where(columns.hour < before)
        chosen = tuple_(columns.edge_id, columns.hour).in_(old.order_by(columns.hour).limit(_PRUNED_AT_ONCE))
        async with self._database.writing() as connection:
            return (await connection.execute(delete(edge_hours).where(chosen))).rowcount

    async def _drop_partitions(self, before: int, now: float) -> int:
        """Drop whole days. One to which another replica may still add is emptied instead, by clocks a day apart."""
        last, writable = before // DAY_HOURS, find_first_day(now) - 1
        async with self._database.writing() as connection:
            names = [str(row.name) for row in await connection.execute(_PARTITIONS)]
            old = [name for name in names if int(name.rpartition("_")[2]) < last]
            dropped = [name for name in old if int(name.rpartition("_")[2]) < writable]
            for name in old:
                await connection.execute(text(f"{'DROP' if name in dropped else 'TRUNCATE'} TABLE {name}"))
        return len(dropped)

    async def _delete_edges(self, before: int) -> int:
        old = select(edges.c.edge_id).where(edges.c.last_hour < before).order_by(edges.c.last_hour)
        if self._database.is_sqlite:  # Hours without their edge would be found by nothing; partitions go anyway.
            old = old.where(~exists().where(edge_hours.c.edge_id == edges.c.edge_id))
        async with self._database.writing() as connection:
            chosen = edges.c.edge_id.in_(old.limit(_PRUNED_AT_ONCE))
            return (await connection.execute(delete(edges).where(chosen))).rowcount

    async def _delete_reports(self, before: int) -> int:
        columns = edge_reports.c
        old = select(columns.instance, columns.hour).where(columns.hour < before).order_by(columns.hour)
        chosen = tuple_(columns.instance, columns.hour).in_(old.limit(_PRUNED_AT_ONCE))
        async with self._database.writing() as connection:
            return (await connection.execute(delete(edge_reports).where(chosen))).rowcount
