"""Decisions in the store: inserted in batches, filtered, pruned by age and number. I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, delete, func, insert, or_, select

from ca.store.engine.database import DECISIONS, Database
from ca.store.records import DecisionFilter, StoredDecision
from ca.store.tables import decisions
from shared.model.policy.decision import Answer, DecisionRecord

MAX_LISTED: Final = 10_000
_decoder: Final = msgspec.json.Decoder(DecisionRecord)
_encoder: Final = msgspec.json.Encoder()
_PRUNED_AT_ONCE: Final = 10_000


class DecisionLog:
    """What the sidecars reported."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, records: Sequence[DecisionRecord]) -> int:
        """Store a batch in one transaction; return the highest ID in the log."""
        async with self._database.writing() as connection:
            if records:
                # IDs become visible in their order: who follows the log by ID would miss one that commits late.
                await self._database.take_turn(connection, DECISIONS)
                await connection.execute(insert(decisions), [_values(record) for record in records])
            return int(await connection.scalar(select(func.max(decisions.c.decision_id))) or 0)

    async def get_last_id(self) -> int:
        """Return the highest ID in the log; 0 when it is empty."""
        async with self._database.reading() as connection:
            return int(await connection.scalar(select(func.max(decisions.c.decision_id))) or 0)

    async def query(self, wanted: DecisionFilter) -> list[StoredDecision]:
        """Return the decisions that the filter names: newest first, or oldest first after ``after_id``."""
        query = select(decisions.c.decision_id, decisions.c.record).where(*_conditions(wanted))
        following = wanted.after_id is not None
        query = query.order_by(decisions.c.decision_id if following else decisions.c.decision_id.desc())
        async with self._database.reading() as connection:
            rows = (await connection.execute(query.limit(max(0, min(wanted.limit, MAX_LISTED))))).all()
        return [StoredDecision(decision_id=row.decision_id, record=_decoder.decode(row.record)) for row in rows]

    async def list_refusals(self, namespace: str, *, since: float, limit: int) -> list[DecisionRecord]:
        """Return what this namespace's sidecars refused or marked since then, newest first, at most ``limit``."""
        query = (
            select(decisions.c.record)
            .where(
                decisions.c.namespace == namespace,
                decisions.c.time >= since,
                or_(decisions.c.would_deny, decisions.c.answer == Answer.DENY.value),
            )
            .order_by(decisions.c.decision_id.desc())
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

    async def prune(self, *, max_age_s: float, max_rows: int, now: float) -> int:
        """Forget decisions that are too old or too many, oldest first; return how many.

        One call forgets a bounded number, so that no writer waits long: call again while it returns more than 0.
        """
        async with self._database.writing() as connection:
            last = int(await connection.scalar(select(func.max(decisions.c.decision_id))) or 0)
            # IDs are given in order and never twice: the newest max_rows rows are above this one.
            old = (
                select(decisions.c.decision_id)
                .where(or_(decisions.c.time < now - max_age_s, decisions.c.decision_id <= last - max_rows))
                .order_by(decisions.c.decision_id)
                .limit(_PRUNED_AT_ONCE)
            )
            gone = await connection.execute(delete(decisions).where(decisions.c.decision_id.in_(old)))
            return gone.rowcount


def _conditions(wanted: DecisionFilter) -> list[ColumnElement[bool]]:
    columns = decisions.c
    conditions: list[ColumnElement[bool]] = []
    if wanted.namespace:
        conditions.append(columns.namespace == wanted.namespace)
    if wanted.workload:
        conditions.append(
            or_(columns.source_workload == wanted.workload, columns.destination_workload == wanted.workload)
        )
    if wanted.program:
        conditions.append(
            or_(
                columns.source_program.startswith(wanted.program, autoescape=True),
                columns.destination_program.startswith(wanted.program, autoescape=True),
            )
        )
    if wanted.reason is not None:
        conditions.append(columns.reason == wanted.reason.value)
    if wanted.denied is not None:
        is_denied = columns.answer == Answer.DENY.value
        conditions.append(is_denied if wanted.denied else ~is_denied)
    if wanted.would_deny is not None:
        conditions.append(columns.would_deny == wanted.would_deny)
    if wanted.since is not None:
        conditions.append(columns.time >= wanted.since)
    if wanted.until is not None:
        conditions.append(columns.time < wanted.until)
    if wanted.after_id is not None:
        conditions.append(columns.decision_id > wanted.after_id)
    return conditions


def _values(record: DecisionRecord) -> dict[str, Any]:
    return {
        "time": record.time,
        "namespace": _text(record.namespace),
        "sidecar": _text(record.sidecar),
        "answer": record.answer.value,
        "would_deny": record.would_deny,
        "reason": record.reason.value,
        "source_workload": _text(record.source.workload or record.source.listed),
        "destination_workload": _text(record.destination.workload or record.destination.listed),
        "source_program": _text(record.source.program),
        "destination_program": _text(record.destination.program),
        "port": record.port,
        "connection": _text(record.connection),
        "count": record.count,
        "record": _encoder.encode(record).decode(),  # JSON escapes what PostgreSQL doesn't take.
    }


def _text(text: str) -> str:
    """Return the text as PostgreSQL takes it: without NUL, which would have the whole batch refused for ever."""
    return text.replace("\0", "\ufffd")
