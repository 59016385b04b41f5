"""Edges in the store: exactly what the records say, bounded, forgotten by age and by size; on both databases."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from sqlalchemy import delete, func, select, text

from ca.metrics import Metrics
from ca.observation.decisions import Decisions, Retention
from ca.store.edges import edge_log, forgetting
from ca.store.edges.edge import Report
from ca.store.edges.tables import edge_hours, edge_reports, edges
from ca.store.records import JoinGrant
from ca.store.store import Store
from shared.model.identity.identity import Workload
from shared.model.policy.decision import Answer, DecisionRecord, Ending, PartyRecord, Phase, Transport
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, Mode
from tests.ca.founded import opened
from tests.ca.running import make_registration
from tests.shared.model.policy.records import make_record

pytestmark = pytest.mark.usefixtures("backend")
HOUR_S = 3600.0
WORKLOADS = ("shop/web", "shop/db", "bank/api")


def name_instance(workload: str) -> str:
    return workload.replace("/", ".")


class Made(NamedTuple):
    """A connection as it really was."""

    source: int
    destination: int
    program: str
    port: int
    began_h: int
    lasted_h: int
    is_denied: bool
    is_long: bool
    times: int
    sent: int


def records_of(made: Made, number: int, base: float) -> list[tuple[str, DecisionRecord]]:
    """Write what both ends' sidecars record of it: by instance."""
    is_long = made.is_long and not made.is_denied
    lasted_h = made.lasted_h if is_long else 0
    written = []
    for side in Direction:
        workload = WORKLOADS[made.source if side is Direction.EGRESS else made.destination]
        common = make_record(
            direction=side,
            sidecar=name_instance(workload),
            namespace=workload.partition("/")[0],
            answer=Answer.DENY if made.is_denied else Answer.ALLOW,
            reason=Reason.NO_RULE if made.is_denied else Reason.ALLOW_RULE,
            source=PartyRecord(
                address=f"198.18.0.2:{number + 1}",
                workload=WORKLOADS[made.source],
                program="sha256:" + made.program * 64,
                approved=bool(number % 2),
            ),
            destination=PartyRecord(
                address=f"198.18.0.3:{made.port}", workload=WORKLOADS[made.destination], program="sha256:" + "b" * 64
            ),
            port=made.port,
            transport=Transport.TUNNEL,
            mode=Mode.EXPLICIT,
            connection=f"c{number}",
            count=made.times,
        )
        began = base + made.began_h * HOUR_S
        if is_long:
            changes = {"time": began, "phase": Phase.START, "ending": Ending.NONE}
            written.append((common.sidecar, _change(common, **changes)))
        ended = {"time": began + lasted_h * HOUR_S, "bytes_sent": made.sent, "ending": Ending.FINISHED}
        written.append((common.sidecar, _change(common, **ended, **({"has_started": True} if is_long else {}))))
    return written


def _change(record: DecisionRecord, **changes: object) -> DecisionRecord:
    return msgspec.structs.replace(record, **changes)


async def register(store: Store, instance: str, workload: str) -> None:
    namespace, _, account = workload.partition("/")
    grant = JoinGrant(workload=Workload(namespace=namespace, service_account=account), addresses=(), instance=instance)
    async with store.database.writing() as connection:
        await store.sidecars.enter(connection, grant, 1.0, key_digest=b"key", replaces=None)
        await store.sidecars.note_registration(connection, grant, make_registration(instance), 1.0)


async def clear(store: Store) -> None:
    async with store.database.writing() as connection:
        for table in (edge_hours, edges, edge_reports):
            await connection.execute(delete(table))


async def deliver(store: Store, made: Sequence[Made], chance: random.Random, base: float) -> None:
    """Send each sidecar's records in batches, the sidecars' batches mixed, some several times."""
    log = Decisions(store, metrics=Metrics(), limits=Retention(max_age_s=1e6, max_rows=10**6, max_bytes=2**30))
    waiting: dict[str, list[DecisionRecord]] = {name_instance(workload): [] for workload in WORKLOADS}
    for number, each in enumerate(made):
        for instance, record in records_of(each, number, base):
            waiting[instance].append(record)
    for records in waiting.values():
        chance.shuffle(records)
    numbers = Counter[str]()
    while any(waiting.values()):
        instance = chance.choice([name for name, records in waiting.items() if records])
        size = chance.randint(1, 4)
        batch, waiting[instance] = waiting[instance][:size], waiting[instance][size:]
        numbers[instance] += 1
        namespace, _, account = instance.partition(".")
        for _ in range(chance.randint(1, 3)):
            await log.take_in(
                batch,
                instance=instance,
                workload=Workload(namespace=namespace, service_account=account),
                lost=0,
                batch=numbers[instance] + int(base * 1000),
            )


def count_naively(made: Sequence[Made], namespace: str) -> dict[tuple[object, ...], tuple[int, int, int]]:
    """By side and edge: opened, ended, bytes sent."""
    counted: dict[tuple[object, ...], tuple[int, int, int]] = {}
    for each in made:
        source, destination = WORKLOADS[each.source], WORKLOADS[each.destination]
        if namespace not in (source.partition("/")[0], destination.partition("/")[0]):
            continue
        for side in Direction:
            key = (side, source, each.program, destination, each.port, each.is_denied)
            opened, ended, sent = counted.get(key, (0, 0, 0))
            counted[key] = (opened + each.times, ended + each.times, sent + each.sent)
    return counted


def draw(chance: random.Random) -> Made:
    return Made(
        source=chance.randrange(3),
        destination=chance.randrange(3),
        program=chance.choice("ac"),
        port=chance.choice((80, 5432)),
        began_h=chance.randint(-5, -3),
        lasted_h=chance.randint(0, 2),
        is_denied=chance.random() < 0.3,
        is_long=chance.random() < 0.4,
        times=chance.choice((1, 1, 7)),
        sent=chance.randrange(10**6),
    )


async def test_edges_are_what_a_count_over_the_connections_says(tmp_path: Path) -> None:
    """For any connections, in any order, in batches of any size, each sent any number of times."""
    async with opened(tmp_path) as core:
        for workload in WORKLOADS:
            await register(core.store, name_instance(workload), workload)
        for seed in range(20):
            chance = random.Random(seed)
            made = [draw(chance) for _ in range(chance.randint(0, 14))]
            await clear(core.store)
            await deliver(core.store, made, chance, time.time() + seed / 1000)
            for namespace in ("shop", "bank", "other"):
                window = await core.store.edges.list_edges(namespace, since=0)
                found = {
                    (
                        edge.key.side,
                        edge.key.source.workload,
                        edge.key.source.program[7],
                        edge.key.destination.workload,
                        edge.key.port,
                        edge.key.answer is Answer.DENY,
                    ): (edge.opened, edge.ended, edge.bytes_sent)
                    for edge in window.edges
                }
                assert len(found) == len(window.edges)
                assert found == count_naively(made, namespace)
                assert not any(edge.is_lossy for edge in window.edges)


def allow(time: float, *, port: int = 80, sidecar: str = "one", **changes: object) -> DecisionRecord:
    ends = {
        "source": PartyRecord(address="198.18.0.2:9", workload="shop/web", program="sha256:" + "a" * 64),
        "destination": PartyRecord(address="198.18.0.3:80", workload="bank/api", program="sha256:" + "b" * 64),
    }
    return make_record(
        **{
            **ends,
            "time": time,
            "sidecar": sidecar,
            "port": port,
            "answer": Answer.ALLOW,
            "reason": Reason.ALLOW_RULE,
            **changes,
        }
    )


async def add(
    store: Store, records: Sequence[DecisionRecord], *, now: float, lost: int = 0, instance: str = "one"
) -> None:
    report = Report(instance=instance, namespace="shop", service_account="web", lost=lost)
    await store.edges.prepare(now=now)
    async with store.database.writing() as connection:
        await store.edges.add(connection, records, report, now=now)


async def list_ports(store: Store, *, since: float = 0.0, until: float = math.inf) -> list[int]:
    return [edge.key.port for edge in (await store.edges.list_edges("shop", since=since, until=until)).edges]


NOW = 500_000 * HOUR_S + 60


async def test_a_record_that_comes_late_brings_its_edge_into_the_window_of_its_hour(tmp_path: Path) -> None:
    async with opened(tmp_path) as core:
        store = core.store
        await add(store, [allow(NOW, port=1)], now=NOW)
        assert await list_ports(store, until=NOW - HOUR_S) == []
        await add(store, [allow(NOW - 2 * HOUR_S, port=1)], now=NOW)
        assert await list_ports(store, until=NOW - HOUR_S) == [1]
        assert await list_ports(store, since=NOW) == [1]
        assert await list_ports(store, until=NOW - 2 * HOUR_S - 60) == []


async def test_a_window_has_whole_hours_and_both_namespaces_see_the_edge(tmp_path: Path) -> None:
    async with opened(tmp_path) as core:
        store = core.store
        await add(store, [allow(NOW - 2 * HOUR_S, port=1), allow(NOW, port=2), allow(NOW - 100, port=3)], now=NOW)
        assert sorted(await list_ports(store)) == [1, 2, 3]
        assert await list_ports(store, since=NOW) == [2]
        assert await list_ports(store, until=NOW) == [2, 3, 1]
        assert await list_ports(store, until=NOW - HOUR_S) == [3, 1]
        assert [edge.key.port for edge in (await store.edges.list_edges("bank", since=NOW)).edges] == [2]
        window = await store.edges.list_edges("shop", since=NOW - 100, until=NOW - 90, limit=1)
        assert (window.since, window.until, window.is_truncated) == (NOW - 60 - HOUR_S, NOW - 60, False)
        assert (await store.edges.list_edges("shop", since=0, limit=2)).is_truncated
        assert (await store.edges.list_edges("none", since=0)).edges == ()


async def test_a_loss_marks_every_hour_since_the_last_report(tmp_path: Path) -> None:
    """What was lost may be of any of them."""
    async with opened(tmp_path) as core:
        for hour in (9, 6, 3):
            await add(core.store, [allow(NOW - hour * HOUR_S)], now=NOW - hour * HOUR_S)
        await add(core.store, [allow(NOW - hour * HOUR_S) for hour in range(3)], now=NOW, lost=5)

        async def is_lossy(hour: int) -> bool:
            since = NOW - hour * HOUR_S
            window = await core.store.edges.list_edges("shop", since=since, until=since + 1)
            return window.edges[0].is_lossy

        assert [await is_lossy(hour) for hour in (9, 6, 3, 2, 1, 0)] == [False, False, True, True, True, True]
        reports = await core.store.edges.list_reports("shop", since=0)
        assert [(one.hour - 500_000, one.records, one.lost) for one in reports] == [
            (0, 3, 2), (-1, 0, 1), (-2, 0, 1), (-3, 1, 1), (-6, 1, 0), (-9, 1, 0),
        ]  # fmt: skip


async def test_a_clock_that_is_far_off_is_not_believed(tmp_path: Path) -> None:
    async with opened(tmp_path) as core:
        await add(core.store, [allow(1.0), allow(NOW * 2, port=81)], now=NOW)
        edges_found = (await core.store.edges.list_edges("shop", since=NOW)).edges
        assert [(edge.first, edge.last) for edge in edges_found] == [(NOW, NOW)] * 2


async def test_new_edges_are_bounded_and_what_has_no_room_counts_as_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_log, "MAX_NEW_EDGES", 5)
    async with opened(tmp_path) as core:
        store = core.store
        await add(store, [allow(NOW, port=port, count=2) for port in range(4)], now=NOW)
        await add(store, [allow(NOW, port=port, count=2) for port in range(9)], now=NOW)
        assert sorted(await list_ports(store)) == [0, 1, 2, 3, 4]
        assert [(one.records, one.lost) for one in await store.edges.list_reports("shop", since=0)] == [(26, 8)]
        await add(store, [allow(NOW, port=9)], now=NOW, instance="two")
        assert len(await list_ports(store)) == 6
        monkeypatch.setattr(edge_log, "MAX_EDGES", 6)
        await add(store, [allow(NOW + HOUR_S, port=10)], now=NOW + HOUR_S)
        assert len(await list_ports(store)) == 6


async def test_strangers_beyond_a_number_are_no_longer_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server on the Internet has clients without number; their connections are still counted."""
    monkeypatch.setattr(edge_log, "MAX_NEW_STRANGERS", 3)

    def dialled(*hosts: int) -> list[DecisionRecord]:
        return [allow(NOW, destination=PartyRecord(address=f"192.0.2.{host}:80")) for host in hosts]

    async with opened(tmp_path) as core:
        await add(core.store, dialled(1, 2, 1), now=NOW)
        await add(core.store, dialled(3, 4, 5, 5, 1), now=NOW)
        await add(core.store, dialled(4, 6), now=NOW)
        found = (await core.store.edges.list_edges("shop", since=0)).edges
        assert {edge.key.destination.address: edge.opened for edge in found} == {
            "192.0.2.1": 3, "192.0.2.2": 1, "192.0.2.3": 1, "": 5,
        }  # fmt: skip


async def test_numbers_that_cannot_be_stop_nobody(tmp_path: Path) -> None:
    """A sidecar may say that it sent more bytes than a column holds: the honest ones' batches must go on."""
    async with opened(tmp_path) as core:
        for _ in range(3):
            await add(core.store, [allow(NOW, bytes_sent=2**63 - 1, bytes_received=-5)] * 500, now=NOW)
            await add(core.store, [], now=NOW, lost=10**12, instance="nul\0")
        edge = (await core.store.edges.list_edges("shop", since=0)).edges[0]
        assert (edge.opened, edge.bytes_sent, edge.bytes_received) == (1500, 1500 * 2**50, 0)


async def test_what_is_old_is_forgotten_and_then_what_is_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgetting, "_PRUNED_AT_ONCE", 7)
    async with opened(tmp_path) as core:
        store = core.store
        for day in range(40):
            now = NOW - (39 - day) * 86_400
            await add(store, [allow(now, port=day), allow(now, port=100)], now=now)
        while await store.edges.prune(max_age_s=30 * 86_400, max_bytes=2**30, now=NOW):
            pass
        kept = sorted(await list_ports(store))
        assert kept[-2:] == [39, 100] and kept[0] in (8, 9)  # PostgreSQL drops whole days.
        async with store.database.reading() as connection:
            orphans = select(func.count()).where(edge_hours.c.edge_id.not_in(select(edges.c.edge_id)))
            assert await connection.scalar(orphans) == 0
        size, oldest = await store.edges.estimate_bytes()
        monkeypatch.setattr(forgetting, "_COUNTED_AT_ONCE", 7)  # PostgreSQL counts some at a time.
        assert await store.edges.estimate_bytes() == (size, oldest)
        await store.edges.prune(max_age_s=30 * 86_400, max_bytes=size - 1, now=NOW)
        while await store.edges.prune(max_age_s=30 * 86_400, max_bytes=size - 1, now=NOW):
            pass
        smaller, _ = await store.edges.estimate_bytes()
        assert smaller < size
        ports = sorted(await list_ports(store))
        assert ports[-2:] == [39, 100] and 10 < len(ports) < len(kept)
        await add(store, [allow(NOW, port=200)], now=NOW)
        assert 200 in await list_ports(store)


async def test_what_went_for_its_size_counts_as_lost(tmp_path: Path) -> None:
    """A namespace whose hours were dropped to make room must not look as if nothing had happened in them."""
    async with opened(tmp_path) as core:
        store = core.store
        await add(store, [allow(NOW - 60, port=1)], now=NOW - 60)
        await store.edges.prune(max_age_s=30 * 86_400, max_bytes=1, now=NOW)
        assert await list_ports(store) == []
        await add(store, [allow(NOW, port=2)], now=NOW)
        (edge,) = (await store.edges.list_edges("shop", since=NOW - 90)).edges
        assert edge.is_lossy


async def test_postgresql_keeps_a_partition_for_each_day(tmp_path: Path, backend: str) -> None:
    async with opened(tmp_path) as core:
        await add(core.store, [allow(NOW)], now=NOW)
        if core.store.database.is_sqlite:
            assert backend == "sqlite"
            return
        async with core.store.database.reading() as connection:
            names = set(await connection.scalars(text("SELECT tableoid::regclass::text FROM edge_hours")))
            assert names == {f"edge_hours_{500_000 // 24}"}
            assert await connection.scalar(select(func.count()).select_from(edge_hours)) == 1


async def test_replicas_that_store_their_first_decisions_at_the_same_moment_all_succeed(tmp_path: Path) -> None:
    """Each of them makes the day's partition on PostgreSQL."""
    async with opened(tmp_path, replica="a") as one, opened(tmp_path, replica="b") as two:
        for day in range(5):
            now = NOW + day * 86_400
            await asyncio.gather(*(each.store.edges.prepare(now=now) for each in (one, two)))
