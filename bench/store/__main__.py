"""``python -m bench.store [--rows N] [--database URL]``: how long each question takes among a million rows a table.

One row for each question, the slowest first, in ms: by the clock; its longest statement or page by the clock (an answer
may have several); the CPU of this process and, on the same machine, of PostgreSQL; and for how long the event loop's
thread computed in one go at most, as in ``bench.stalls``. All is asked as the CA asks: SQLite hasn't counted its rows,
PostgreSQL has (its autovacuum does that).
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Sized
from contextlib import nullcontext
from pathlib import Path
from typing import Final

from bench.stalls import watch
from bench.store.asked import Question, list_questions
from bench.store.longest import Longest, hearing
from bench.store.rows import fill
from bench.store.server import Server, looking_at
from ca.store.store import Store

_ROUNDS: Final = 7
_BOUND_MS: Final = 50.0


async def measure(where: str | Path, rows: int, *, chosen: str = "") -> None:
    """Fill a store, unless it is, ask each question, and print how long it took."""
    # A store that is kept is asked as of when it was filled.
    now = time.time()
    store = await Store.open(where, trust_domain="touchmark.local")
    try:
        async with nullcontext() if store.database.is_sqlite else looking_at(str(where)) as server:
            known = await store.ledger.list_lines()
            if not known:
                began = time.perf_counter()
                filled = await fill(store.database, rows, now=now)
                if server is not None:
                    await server.vacuum()
                print(f"filled in {time.perf_counter() - began:.0f} s: {filled}", flush=True)
            else:
                now = known[0].issued
            lines = []
            with hearing(store.database) as longest:
                for name, ask in list_questions(now=now).items():
                    if chosen in name:
                        lines.append(await _ask(store, name, ask, longest, server))
        for _, line in sorted(lines, reverse=True):
            print(line)
    finally:
        await store.close()


async def _ask(store: Store, name: str, ask: Question, longest: Longest, server: Server | None) -> tuple[float, str]:
    """Return a question's median in ms, and its line, with the longest statement where that is above the bound."""
    times, cpu, served, statements, found = [], [], [], [], ""
    await ask(store)  # So that connections are there.
    longest.take()
    for _ in range(_ROUNDS):
        served_before = await server.measure_cpu_ms() if server is not None else 0.0
        began, cpu_began = time.perf_counter(), time.process_time()
        answer = await ask(store)
        times.append((time.perf_counter() - began) * 1000)
        cpu.append((time.process_time() - cpu_began) * 1000)
        served.append((await server.measure_cpu_ms() if server is not None else 0.0) - served_before)
        statements.append(longest.take())
        found = str(len(answer)) if isinstance(answer, Sized) else ""
    held = await watch(ask(store))
    median, statement = statistics.median(times), statistics.median(each for each, _ in statements)
    line = f"{name:50} {found:>6}  median {median:7.1f}  worst {max(times):7.1f}  statement {statement:6.1f}"
    line += f"  CPU {statistics.median(cpu):6.1f}  server {statistics.median(served):6.1f}"
    line += f"  loop {held['longest_own_ms']:5.1f}"
    if statement > _BOUND_MS:
        line += f"\n    {' '.join(max(statements)[1].split())[:300]}"
    return median, line


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
