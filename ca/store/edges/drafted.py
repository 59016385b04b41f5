"""What drafts say of edges' connections, in the store: added, asked, forgotten. I/O.

Belongs here: the table of what drafts said, one row for each edge and verdict of a draft since it was written. Only the
drafts that namespaces have now are counted, and only for edges of which an end is in the draft's namespace, within a
bound for each draft; what sidecars of other namespaces report has a room of its own. Doesn't: the verdicts, which the
sidecars gave, or joining both sides' views (``ca/observation/draft_outcome.py``).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final

import msgspec
from sqlalchemy import Text, bindparam, case, cast, delete, exists, func, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.store.drafts.tables import policy_drafts
from ca.store.edges.edge import DraftedEdge, DraftedWindow, EdgeEvidence, EdgeKey, read_key
from ca.store.edges.sums import prepare_sums
from ca.store.edges.tables import edge_drafts, edge_reports, edges
from ca.store.edges.tally import HOUR_S, Addition, Sum
from ca.store.engine.database import Database
from ca.store.engine.pages import paging
from shared.model.policy.decision import DraftVerdict, name_draft

# Rows of one draft: those that sidecars of its own namespace report, and those of others.
MAX_OWN: Final = 50_000
MAX_OTHERS: Final = 10_000
MAX_LISTED: Final = 20_000
_PRUNED_AT_ONCE: Final = 2_000
_LOOKED_AT_ONCE: Final = 10_000
_PAGE: Final = 1_000
_NO_EDGE: Final = 0  # Where connections count that have no room.
_SAME: Final = ""
_decode_evidence: Final = msgspec.json.Decoder(EdgeEvidence).decode
# A draft has few verdicts, each of many edges.
_decode_verdict: Final = lru_cache(maxsize=1024)(msgspec.json.Decoder(DraftVerdict).decode)
_rows: Final = edge_drafts.c
_NUMBERS: Final = ("opened", "ended")
_ADD: Final = prepare_sums(edge_drafts, ("draft", "edge_id", "digest"), added=_NUMBERS)
# By each key: SQLite looks for a list of keys of several columns by reading the table.
_KEY: Final = ("of_draft", "of_edge", "of_digest")
_FORGET: Final = delete(edge_drafts).where(
    _rows.draft == bindparam("of_draft"), _rows.edge_id == bindparam("of_edge"), _rows.digest == bindparam("of_digest")
)
# Which row it is: the draft, the edge and its verdict's digest.
DraftedKey = tuple[str, int, str]
_Found = tuple[tuple[float, int, str], DraftedEdge]  # With its place in the list.


async def add_drafted(connection: AsyncConnection, added: Mapping[int, Addition]) -> None:
    """Add what a batch says of drafts, in the transaction that stores it.

    Arguments:
        added: by the edge's ID.
    """
    names = {name for addition in added.values() for name, _ in addition.drafted}
    if not names:
        return
    current = await _find_current(connection, names)
    rows: dict[DraftedKey, dict[str, Any]] = {}
    for edge_id, addition in added.items():
        for (name, verdict), total in addition.drafted.items():
            namespace = current.get(name)
            if namespace is not None and namespace in _find_namespaces(addition.key):
                row = _make_row(name, edge_id, verdict, total, is_own=addition.key.namespace == namespace)
                rows[name, edge_id, row["digest"]] = row
    if not rows:
        return
    admitted = await _admit(connection, rows)
    await _ADD.on_each(connection, [admitted[key] for key in sorted(admitted)])


async def _find_current(connection: AsyncConnection, names: Iterable[str]) -> dict[str, str]:
    """Return those of the drafts that are their namespaces' now, with the namespaces."""
    namespaces = {name.rpartition("@")[0] for name in names}
    query = select(policy_drafts.c.namespace, policy_drafts.c.number).where(policy_drafts.c.namespace.in_(namespaces))
    return {name_draft(row.namespace, row.number): row.namespace for row in await connection.execute(query)}


def _find_namespaces(key: EdgeKey) -> frozenset[str]:
    ends = ((party.workload or party.listed).partition("/")[0] for party in (key.source, key.destination))
    return frozenset((key.namespace, *ends))


def _make_row(name: str, edge_id: int, verdict: DraftVerdict | None, total: Sum, *, is_own: bool) -> dict[str, Any]:
    encoded = b"" if verdict is None else msgspec.json.encode(verdict)
    return {
        "draft": name,
        "edge_id": edge_id,
        "digest": hashlib.sha256(encoded).hexdigest() if encoded else _SAME,
        "verdict": encoded.decode(),
        "is_own": is_own,
        "opened": total.opened,
        "ended": total.ended,
        "first": total.first,
        "last": total.last,
    }


async def _admit(
    connection: AsyncConnection, rows: dict[DraftedKey, dict[str, Any]]
) -> dict[DraftedKey, dict[str, Any]]:
    """Return the rows for which there is room, and sums of the others."""
    mine = _rows.draft.in_({name for name, _, _ in rows}) & _rows.edge_id.in_({edge_id for _, edge_id, _ in rows})
    query = select(_rows.draft, _rows.edge_id, _rows.digest).where(mine)
    known = {(row.draft, row.edge_id, row.digest) for row in await connection.execute(query)}
    admitted = {key: row for key, row in rows.items() if key in known}
    if len(admitted) == len(rows):
        return admitted
    counts: dict[tuple[str, bool], int] = defaultdict(int)
    count = select(_rows.draft, _rows.is_own, func.count().label("rows")).group_by(_rows.draft, _rows.is_own)
    count = count.where(_rows.draft.in_({name for name, _, _ in rows}), _rows.edge_id != _NO_EDGE)
    for found in await connection.execute(count):
        counts[found.draft, found.is_own] = found.rows
    for key, row in rows.items():
        if key in known:
            continue
        room = row["draft"], row["is_own"]
        if counts[room] < (MAX_OWN if row["is_own"] else MAX_OTHERS):
            counts[room] += 1
            admitted[key] = row
            continue
        rest = admitted.setdefault(
            (row["draft"], _NO_EDGE, _SAME),
            {**row, "edge_id": _NO_EDGE, "digest": _SAME, "verdict": "", "is_own": True, **dict.fromkeys(_NUMBERS, 0)},
        )
        rest.update({name: rest[name] + row[name] for name in _NUMBERS})
    return admitted


async def read_drafted(database: Database, namespace: str, number: int, *, written: float) -> DraftedWindow:
    """Return what was decided while a namespace's draft was evaluated.

    Arguments:
        written: when the draft was, seconds since the epoch.
    """
    mine = _rows.draft == name_draft(namespace, number)
    reports = edge_reports.c
    losses = select(func.sum(reports.lost)).where(
        reports.namespace == namespace, reports.hour >= int(written // HOUR_S), text("lost > 0")
    )
    counted = case((_rows.opened > _rows.ended, _rows.opened), else_=_rows.ended)
    is_own = (_rows.edge_id != _NO_EDGE) & _rows.is_own
    sums = select(
        func.min(case((is_own, _rows.first))),
        func.sum(case((is_own & (_rows.digest == _SAME), counted), else_=0)),
        func.sum(case((_rows.edge_id == _NO_EDGE, counted), else_=0)),
    ).where(mine)
    # Put in order before the descriptions are there: sorting these takes longer than finding them.
    newest = (
        select(_rows.edge_id, _rows.digest, _rows.verdict, counted.label("counted"), _rows.last)
        .where(mine, _rows.digest != _SAME)
        .order_by(_rows.last.desc(), _rows.edge_id, _rows.digest)
        .limit(MAX_LISTED + 1)
        .subquery()
    )
    query = select(newest, edges.c.description, edges.c.evidence).join(edges, edges.c.edge_id == newest.c.edge_id)
    found: list[_Found] = []
    async with database.reading() as connection:
        since, unchanged, uncounted = (await connection.execute(sums)).one()
        lost = int(await connection.scalar(losses) or 0)
        async with paging(connection, query, at_once=_PAGE) as pages:
            async for page in pages:
                # In a thread, since the event loop would do nothing else meanwhile.
                found += await asyncio.to_thread(_read_page, page)
    return DraftedWindow(
        edges=await asyncio.to_thread(_put_in_order, found),
        since=since,
        unchanged=int(unchanged or 0),
        uncounted=int(uncounted or 0) + lost,
        is_truncated=len(found) > MAX_LISTED,
    )


def _read_page(rows: Iterable[Any]) -> list[_Found]:
    return [
        (
            (-last, edge_id, digest),
            DraftedEdge(
                key=read_key(description),
                evidence=_decode_evidence(evidence),
                verdict=_decode_verdict(verdict),
                connections=int(connections),
                last=last,
            ),
        )
        for edge_id, digest, verdict, connections, last, description, evidence in rows
    ]


def _put_in_order(found: list[_Found]) -> tuple[DraftedEdge, ...]:
    """Return the edges, seen last first, then by their IDs and verdicts' digests; at most ``MAX_LISTED``."""
    found.sort(key=itemgetter(0))  # No two have the same.
    return tuple(edge for _, edge in found[:MAX_LISTED])


async def forget_drafted(database: Database, *, after: DraftedKey | None) -> tuple[int, DraftedKey | None]:
    """Forget what is about drafts that no namespace has any more, or edges that are forgotten, among the next rows.

    Nothing says which those are but a look at all: a portion at each call, in a transaction that nobody waits for.

    Arguments:
        after: up to which row the last call has looked; None: look from the first on.

    Returns:
        How many went, and up to which row it has looked; None: there is none behind.
    """
    key = (_rows.draft, _rows.edge_id, _rows.digest)
    looked_at = select(*key).order_by(*key)
    if after is not None:
        looked_at = looked_at.where(tuple_(*key) > tuple_(*after))
    portion = looked_at.limit(_LOOKED_AT_ONCE).subquery()
    current = select(policy_drafts.c.namespace + "@" + cast(policy_drafts.c.number, Text))
    is_forgotten = (portion.c.edge_id != _NO_EDGE) & ~exists().where(edges.c.edge_id == portion.c.edge_id)
    old = select(*portion.c).where(portion.c.draft.not_in(current) | is_forgotten).limit(_PRUNED_AT_ONCE)
    async with database.reading() as connection:
        found = [dict(zip(_KEY, row, strict=True)) for row in await connection.execute(old)]
        last = (await connection.execute(looked_at.offset(_LOOKED_AT_ONCE - 1).limit(1))).first()
    if not found:
        return 0, None if last is None else (last.draft, last.edge_id, last.digest)
    async with database.writing() as connection:
        await connection.execute(_FORGET, found)
    return len(found), after  # There may be more among these.
