"""``python -m bench.edges``: decision records into the CA's store and its edges, and a day's edges out again.

In: sidecars' batches of 500 records, as they arrive when each stands for one connection, through everything that a
batch passes after its message was read; with one writer, on SQLite with its journal synced, or on PostgreSQL. Out: the
edges of a namespace of 300 workloads over 24 hours, both sides' views, read, joined and written as one answer of the
admin API, without its HTTP. All of it is in this process.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec
import uvloop

from ca.metrics import Metrics
from ca.observation.decisions import Decisions, Retention
from ca.observation.edge_view import join_edges
from ca.store.edges.edge import Report
from ca.store.store import Store
from shared.model.identity.identity import Workload
from shared.model.policy.decision import Answer, DecisionRecord, Ending, PartyRecord, Phase, ProcessRecord, Transport
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, Mode
from shared.model.wire.admin_edges import MAX_EDGES_LISTED
from shared.model.wire.messages import MAX_DECISIONS_PER_MESSAGE
from shared.runtime.interpreter import quicken_enumerations, spare_what_lives

WORKLOADS = 300
_CALLED = 10
_HOUR_S = 3600


def make_records(
    source: int, targets: Sequence[int], *, count: int, now: float, side: Direction
) -> list[DecisionRecord]:
    """Return records of one workload's sidecar: connections to, or from, these workloads in turn."""
    made = []
    for number in range(count):
        other = targets[number % len(targets)]
        ends = (source, other) if side is Direction.EGRESS else (other, source)
        made.append(
            DecisionRecord(
                time=now,
                namespace="shop",
                sidecar=f"w{source}-1",
                phase=Phase.END,
                direction=side,
                answer=Answer.ALLOW,
                would_deny=False,
                reason=Reason.ALLOW_RULE,
                rule="callers",
                policy_version=7,
                mode=Mode.EXPLICIT,
                weak=False,
                source=_make_party(ends[0], 40_000 + number),
                destination=_make_party(ends[1], 8080),
                process=ProcessRecord(pid=7, uid=1000, path="/usr/bin/server", digest=f"{source:064x}"),
                port=8080,
                transport=Transport.TUNNEL,
                tunnel="0123456789abcdef",
                connection=f"{random.getrandbits(64):016x}",
                issuer="CN=Touchmark issuing authority",
                bytes_sent=700,
                bytes_received=9000,
                duration_s=0.01,
                ending=Ending.FINISHED,
                service=f"shop/w{ends[1]}:80" if side is Direction.EGRESS else msgspec.UNSET,
            )
        )
    return made


def _make_party(number: int, port: int) -> PartyRecord:
    return PartyRecord(
        address=f"198.18.{number // 250}.{number % 250}:{port}",
        workload=f"shop/w{number}",
        listed=f"shop/w{number}",
        program=f"sha256:{number:064x}",
        identity=f"spiffe://touchmark.local/ns/shop/sa/w{number}/sha256/{number:064x}",
        approved=True,
    )


async def measure_in(store: Store, *, batches: int) -> dict[str, float]:
    """Return how many records a second are taken in, and the CPU time of each."""
    log = Decisions(store, metrics=Metrics(), limits=Retention(max_age_s=1e9, max_rows=10**9, max_bytes=2**40))
    now = time.time()
    waiting = [
        make_records(
            number % WORKLOADS, list_targets(number % WORKLOADS), count=MAX_DECISIONS_PER_MESSAGE, now=now,
            side=Direction.EGRESS,
        )
        for number in range(batches)
    ]  # fmt: skip
    began, cpu = time.perf_counter(), time.process_time()
    for number, records in enumerate(waiting):
        await log.take_in(
            records,
            instance=f"w{number % WORKLOADS}-1",
            workload=Workload(namespace="shop", service_account=f"w{number % WORKLOADS}"),
            lost=0,
            batch=number + 2,
        )
    count = batches * MAX_DECISIONS_PER_MESSAGE
    taken = time.perf_counter() - began
    return {"records_per_s": round(count / taken), "cpu_us_each": round((time.process_time() - cpu) / count * 1e6, 1)}


def list_targets(number: int) -> list[int]:
    """Return which workloads a workload calls."""
    return [(number + 1 + each * 7) % WORKLOADS for each in range(_CALLED)]


async def fill_day(store: Store, *, now: float) -> None:
    """Store a day of which every workload calls ten others in each hour, as both sides report it."""
    callers: dict[int, list[int]] = {number: [] for number in range(WORKLOADS)}
    for number in range(WORKLOADS):
        for target in list_targets(number):
            callers[target].append(number)
    for hour in range(24):
        moment = now - hour * _HOUR_S
        await store.edges.prepare(now=moment)
        async with store.database.writing() as connection:
            for number in range(WORKLOADS):
                targets = list_targets(number)
                report = Report(instance=f"w{number}-1", namespace="shop", service_account=f"w{number}")
                for side, others in ((Direction.EGRESS, targets), (Direction.INGRESS, callers[number])):
                    records = make_records(number, others, count=len(others), now=moment, side=side)
                    await store.edges.add(connection, records, report, now=moment)


async def measure_out(store: Store, *, now: float, rounds: int) -> dict[str, float]:
    """Return the milliseconds from the question for a day's edges to the answer's JSON, and this process' CPU time.

    The CPU time includes SQLite's, and not PostgreSQL's.
    """
    taken, cpu, count, size = [], [], 0, 0
    for _ in range(rounds):
        began, used = time.perf_counter(), time.process_time()
        window = await store.edges.list_edges("shop", since=now - 23 * _HOUR_S)
        edges = join_edges(window.edges)
        size = len(msgspec.json.encode(edges[:MAX_EDGES_LISTED]))
        taken.append((time.perf_counter() - began) * 1000)
        cpu.append((time.process_time() - used) * 1000)
        count = len(edges)
    return {
        "edges": count,
        "answer_kib": size // 1024,
        "p50_ms": round(median(taken), 1),
        "worst_ms": round(max(taken), 1),
        "cpu_p50_ms": round(median(cpu), 1),
        "cpu_least_ms": round(min(cpu), 1),
    }


async def run(*, batches: int, rounds: int, database: str = "") -> dict[str, dict[str, float]]:
    """Measure both, each on a new store of SQLite, or in a PostgreSQL database that should be empty.

    Arguments:
        database: PostgreSQL's URL.
    """
    figures = {}
    with tempfile.TemporaryDirectory() as place:
        store = await Store.open(database or Path(place) / "out", trust_domain="bench.test")
        try:
            now = time.time()
            await fill_day(store, now=now)
            figures["out"] = await measure_out(store, now=now, rounds=rounds)
        finally:
            await store.close()
        store = await Store.open(database or Path(place) / "in", trust_domain="bench.test")
        try:
            figures["in"] = await measure_in(store, batches=batches)
        finally:
            await store.close()
    return figures


def main(arguments: Sequence[str]) -> int:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m bench.edges", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batches", type=int, default=200, help="of 500 records (default: 200)")
    parser.add_argument("--rounds", type=int, default=9, help="how often a day is asked for (default: 9)")
    parser.add_argument("--database", default="", metavar="URL", help="an empty PostgreSQL database (default: SQLite)")
    options = parser.parse_args(arguments)
    # As the CA begins.
    quicken_enumerations()
    spare_what_lives()
    print(json.dumps(uvloop.run(run(batches=options.batches, rounds=options.rounds, database=options.database))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
