"""``python -m bench.store [--rows N] [--database URL]``: how long each question takes among a million rows a table.

By the clock, and this process's CPU (PostgreSQL's own isn't in it). One row for each question, the slowest first. All
is asked as the CA asks: SQLite hasn't counted its rows, PostgreSQL has (its autovacuum does that).
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Sized
from pathlib import Path
from typing import Final

from bench.store.asked import list_questions
from bench.store.rows import analyse, fill
from ca.store.store import Store

_ROUNDS: Final = 7


async def measure(where: str | Path, rows: int, *, chosen: str = "") -> None:
    """Fill a store, unless it is, ask each question, and print how long it took."""
    # A store that is kept is asked as of when it was filled.
    now = time.time()
    store = await Store.open(where, trust_domain="touchmark.local")
    try:
        known = await store.ledger.list_lines()
        if not known:
            began = time.perf_counter()
            filled = await fill(store.database, rows, now=now)
            if not store.database.is_sqlite:
                await analyse(store.database)
            print(f"filled in {time.perf_counter() - began:.0f} s: {filled}", flush=True)
        else:
            now = known[0].issued
        lines = []
        for name, ask in list_questions(now=now).items():
            if chosen not in name:
                continue
            times, cpu, found = [], [], ""
            for _ in range(_ROUNDS):
                began, cpu_began = time.perf_counter(), time.process_time()
                answer = await ask(store)
                times.append((time.perf_counter() - began) * 1000)
                cpu.append((time.process_time() - cpu_began) * 1000)
                found = str(len(answer)) if isinstance(answer, Sized) else ""
            middle = statistics.median(times)
            line = f"{name:50} {found:>6}  median {middle:8.1f} ms  worst {max(times):8.1f} ms"
            lines.append((middle, f"{line}  CPU {statistics.median(cpu):8.1f} ms"))
        for _, line in sorted(lines, reverse=True):
            print(line)
    finally:
        await store.close()


def main() -> None:
    """Run this module's command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.store", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--database", default="", help="a PostgreSQL URL; by default SQLite in a temporary directory")
    parser.add_argument("--data-dir", type=Path, help="keep SQLite's file there, and ask it again if it is there")
    parser.add_argument("--only", default="", help="only questions whose names have this in them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        where = options.database or options.data_dir or Path(directory)
        asyncio.run(measure(where, options.rows, chosen=options.only))


if __name__ == "__main__":
    main()
