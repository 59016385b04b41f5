"""What a namespace's own sidecars decided, by the hour. I/O.

Belongs here: the question over the tables of edges. Doesn't: adding to them or forgetting (``edge_log.py``).
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from sqlalchemy import JSON, ColumnElement, and_, cast, func, or_, select, type_coerce

from ca.store.edges.edge import HourOfNamespace
from ca.store.edges.tables import edge_hours, edge_reports, edges
from ca.store.engine.database import Database
from shared.model.policy.decision import Answer
from shared.model.policy.rules import Direction

MAX_HOURS: Final = 31 * 24


async def read_timeline(database: Database, namespace: str, *, first: int, last: int) -> list[HourOfNamespace]:
    """Return each hour in which one of the namespace's sidecars reported, oldest first.

    Only the side that is the namespace's own is counted: a connection between two of its workloads is decided twice.

    Arguments:
        first, last: hours since the epoch, ``last`` not included; at most the newest ``MAX_HOURS`` are looked at.
    """
    first = max(first, last - MAX_HOURS)
    # PostgreSQL keeps the description as text, and has to be told; SQLite's functions read text.
    described: Any = type_coerce(edges.c.description, JSON) if database.is_sqlite else cast(edges.c.description, JSON)
    ours = (
        select(
            edges.c.edge_id,
            described["answer"].as_string().label("answer"),
            described["would_deny"].as_boolean().label("would_deny"),
        )
        .where(edges.c.last_hour >= first, _is_own(described, namespace))
        .cte("ours")
    )
    columns = edge_hours.c
    decided = (
        select(
            columns.hour,
            ours.c.answer,
            ours.c.would_deny,
            func.sum(columns.opened).label("opened"),
            func.sum(columns.ended).label("ended"),
        )
        .join(ours, ours.c.edge_id == columns.edge_id)
        .where(columns.hour >= first, columns.hour < last)
        .group_by(columns.hour, ours.c.answer, ours.c.would_deny)
    )
    reports = edge_reports.c
    reported = (
        select(reports.hour, func.count().label("sidecars"), func.sum(reports.lost).label("lost"))
        .where(reports.namespace == namespace, reports.hour >= first, reports.hour < last)
        .group_by(reports.hour)
    )
    hours: dict[int, HourOfNamespace] = {}
    async with database.reading() as connection:
        for row in await connection.execute(reported):
            hours[row.hour] = HourOfNamespace(hour=row.hour, sidecars=int(row.sidecars), lost=int(row.lost))
        for row in await connection.execute(decided):
            is_denied = row.answer == Answer.DENY
            name = "denied" if is_denied else "would_deny" if row.would_deny else "allowed"
            found = hours.get(row.hour) or HourOfNamespace(hour=row.hour, sidecars=0, lost=0)
            # A denied connection has only an end.
            more = getattr(found, name) + int(row.ended if is_denied else row.opened)
            hours[row.hour] = msgspec.structs.replace(found, **{name: more})
    return [hours[hour] for hour in sorted(hours)]


def _is_own(described: Any, namespace: str) -> ColumnElement[bool]:
    side = described["side"].as_string()
    return or_(
        and_(edges.c.source_namespace == namespace, side == Direction.EGRESS.value),
        and_(edges.c.destination_namespace == namespace, side == Direction.INGRESS.value),
    )
