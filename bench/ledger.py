"""Searches of the ledger at a million lines: `python -m bench.ledger [--lines N] [--database URL]`.

Belongs here: filling a ledger, a search's plan, and how long each search takes, by the clock and of this
process's CPU (PostgreSQL's own isn't in it). Prints one row a search.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

from sqlalchemy import text
from sqlalchemy.dialects import postgresql, sqlite

from ca.store.engine.database import Database
from ca.store.ledger import make_query
from ca.store.records import LedgerFilter
from ca.store.store import Store
from shared.model.identity.identity import Workload

_ROUNDS: Final = 9
_COLUMNS: Final = (
    "serial, identity, namespace, service_account, kind, authority_id, instance, issued, not_before, not_after, path,"
    " pid, uid, approved_by, digest"
)
# 1,000 programs, 200 sidecars in 50 workloads, an authority for each 4,000 lines, a line each 10 seconds.
_SQLITE: Final = f"""
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :lines)
INSERT INTO certificates ({_COLUMNS})
SELECT printf('%016x%016x', i, i), 'spiffe://touchmark.local/ns/ns' || (i % 50) || '/sa/web/sha256/'
  || printf('%064x', i % 1000), 'ns' || (i % 50), 'web', 'program', 'a' || (i / 4000), 's' || (i % 200),
  :now - 10.0 * i, :now - 10.0 * i, :now - 10.0 * i + 18000, '/usr/bin/web', 1, 1, '', printf('%064x', i % 1000) FROM n
"""
_POSTGRESQL: Final = f"""
INSERT INTO certificates ({_COLUMNS})
SELECT lpad(to_hex(i), 16, '0') || lpad(to_hex(i), 16, '0'), 'spiffe://touchmark.local/ns/ns' || (i % 50)
  || '/sa/web/sha256/' || lpad(to_hex(i % 1000), 64, '0'), 'ns' || (i % 50), 'web', 'program', 'a' || (i / 4000),
  's' || (i % 200), :now - 10.0 * i, :now - 10.0 * i, :now - 10.0 * i + 18000, '/usr/bin/web', 1, 1, '',
  lpad(to_hex(i % 1000), 64, '0') FROM generate_series(0, :lines - 1) AS i
"""


async def fill_ledger(database: Database, lines: int, *, now: float) -> None:
    """Write so many lines, the newest issued ``now`` (seconds since the epoch), and let the database count them."""
    async with database.writing() as connection:
        statement = _SQLITE if database.is_sqlite else _POSTGRESQL
        await connection.execute(text(statement), {"lines": lines, "now": now})
    async with database.writing() as connection:
        await connection.execute(text("ANALYZE certificates"))


async def explain_search(database: Database, wanted: LedgerFilter) -> str:
    """Return the database's plan of a search."""
    dialect = sqlite.dialect() if database.is_sqlite else postgresql.dialect()  # type: ignore[no-untyped-call]
    statement = make_query(wanted).compile(dialect=dialect, compile_kwargs={"literal_binds": True})
    how = "EXPLAIN QUERY PLAN" if database.is_sqlite else "EXPLAIN"
    async with database.reading() as connection:
        rows = await connection.exec_driver_sql(f"{how} {statement}")
        return "\n".join(str(row[-1]) for row in rows)


async def measure(where: str | Path, lines: int) -> None:
    """Fill a store and time each search."""
    now = time.time()
    store = await Store.open(where, trust_domain="touchmark.local")
    try:
        await fill_ledger(store.database, lines, now=now)
        newest = f"{lines // 2:016x}"
        for name, wanted in {
            "what is alive": LedgerFilter(alive_at=now),
            "a serial's beginning": LedgerFilter(serial=newest),
            "a digest": LedgerFilter(digest=f"{7:064x}"),
            "an old authority": LedgerFilter(authority_id=f"a{lines // 8000}"),
            "a sidecar": LedgerFilter(instance="s7"),
            "a sidecar, an hour": LedgerFilter(instance="s7", since=now - 2e6, until=now - 2e6 + 3600),
            "a workload": LedgerFilter(workload=Workload(namespace="ns7", service_account="web")),
            "an hour": LedgerFilter(since=now - 2e6, until=now - 2e6 + 3600),
        }.items():
            times, cpu, found = [], [], 0
            for _ in range(_ROUNDS):
                begun, cpu_begun = time.perf_counter(), time.process_time()
                found = len(await store.ledger.list_lines(wanted))
                times.append((time.perf_counter() - begun) * 1000)
                cpu.append((time.process_time() - cpu_begun) * 1000)
            print(
                f"{name:24} {found:6} lines  median {statistics.median(times):8.1f} ms  worst {max(times):8.1f} ms"
                f"  CPU {statistics.median(cpu):8.1f} ms"
            )
    finally:
        await store.close()


def main() -> None:
    """Run this module's command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--database", default="", help="a PostgreSQL URL; by default SQLite in a temporary directory")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(measure(options.database or Path(directory), options.lines))


if __name__ == "__main__":
    main()
