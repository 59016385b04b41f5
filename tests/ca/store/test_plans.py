"""No frequent query reads a whole table that grows: SQLite's plan of each names an index."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from ca.store.engine.sqlite_threads import RollingBack
from ca.store.records import DecisionFilter, LedgerFilter
from ca.store.store import Store
from shared.model.identity.identity import Workload
from tests.ca.founded import NOW
from tests.ca.running import make_decision

_WORKLOAD = Workload(namespace="shop", service_account="web")
_GROWING = ("decisions", "certificates", "edges", "edge_hours", "edge_reports")

ASKED: dict[str, Callable[[Store], Awaitable[object]]] = {
    "live sidecars": lambda s: s.sidecars.list_live(now=NOW),
    "silent sidecars": lambda s: s.sidecars.delete_silent(silent_since=NOW, now=NOW),
    "one sidecar": lambda s: s.sidecars.get("web-1"),
    "one serial": lambda s: s.ledger.get(1),
    "the ledger": lambda s: s.ledger.list_lines(),
    "the living": lambda s: s.ledger.list_lines(LedgerFilter(alive_at=NOW)),
    "a workload's ledger": lambda s: s.ledger.list_lines(LedgerFilter(workload=_WORKLOAD)),
    "a workload's living": lambda s: s.ledger.list_lines(LedgerFilter(workload=_WORKLOAD, alive_at=NOW)),
    "a serial's beginning": lambda s: s.ledger.list_lines(LedgerFilter(serial="ab12")),
    "a digest's ledger": lambda s: s.ledger.list_lines(LedgerFilter(digest="ab" * 32, since=NOW - 60)),
    "an authority's ledger": lambda s: s.ledger.list_lines(LedgerFilter(authority_id="a", until=NOW)),
    "a sidecar's ledger": lambda s: s.ledger.list_lines(LedgerFilter(instance="web-1", since=NOW - 60, until=NOW)),
    "a time's ledger": lambda s: s.ledger.list_lines(LedgerFilter(since=NOW - 60, until=NOW)),
    "number alive": lambda s: s.ledger.count_alive(now=NOW),
    "expired": lambda s: s.ledger.prune(expired_before=NOW),
    "refusals": lambda s: s.decisions.list_refusals("shop", since=NOW - 60, limit=9),
    "reporters": lambda s: s.decisions.list_reporting_sidecars("shop", since=NOW - 60),
    "newest": lambda s: s.decisions.query(DecisionFilter(limit=9)),
    "a namespace": lambda s: s.decisions.query(DecisionFilter(namespace="shop", limit=9)),
    "a workload": lambda s: s.decisions.query(DecisionFilter(workload="shop/web", limit=9)),
    "since": lambda s: s.decisions.query(DecisionFilter(since=NOW, limit=9)),
    "following": lambda s: s.decisions.query(DecisionFilter(after_id=1, limit=9)),
    "edges": lambda s: s.edges.list_edges("shop", since=NOW - 60),
    "edges' reports": lambda s: s.edges.list_reports("shop", since=NOW - 60),
    "pruning": lambda s: s.decisions.prune(max_age_s=60, max_rows=1, now=NOW),
}


@pytest.mark.parametrize("asked", ASKED)
async def test_it_uses_an_index(tmp_path: Path, asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    statements: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if statement.startswith(("SELECT", "DELETE")):
            statements.append((statement, parameters))

    def execute(driver: RollingBack, statement: str, parameters: Any = ()) -> sqlite3.Cursor:
        note(None, None, statement, tuple(parameters))
        return sqlite3.Connection.execute(driver, statement, parameters)

    store = await Store.open(tmp_path, trust_domain="mesh.test")
    try:
        await store.decisions.insert([make_decision(f"c{number}", time=NOW - 90) for number in range(3)])
        engine = store.database._engine.sync_engine
        event.listen(engine, "before_cursor_execute", note)
        monkeypatch.setattr(RollingBack, "execute", execute, raising=False)  # What is prepared goes there at once.
        await ASKED[asked](store)
        event.remove(engine, "before_cursor_execute", note)
        assert statements
        async with store.database.reading() as connection:
            for statement, parameters in statements:
                for step in await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters):
                    assert not _reads_whole(step.detail) or "ORDER BY decisions.decision_id" in statement, statement
    finally:
        await store.close()


def _reads_whole(step: str) -> bool:
    words = step.split()
    return words[0] == "SCAN" and words[1] in _GROWING and "INDEX" not in words
