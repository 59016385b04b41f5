"""Decisions are taken in as what their sender may say, followed without a gap, and kept within bounds."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ca.metrics import Metrics
from ca.observation import decisions
from ca.observation.decisions import Decisions, Retention
from ca.store import decision_log
from ca.store.decision_log import Look
from ca.store.engine.disk import Space
from ca.store.records import DecisionFilter, JoinGrant
from shared.model.errors import UnavailableError
from shared.model.policy.decision import DecisionRecord, PartyRecord, ProcessRecord
from shared.model.policy.rules import Direction
from shared.model.wire.messages import MAX_DECISION_BYTES
from tests.ca.founded import NOW, WEB, Founded, join, opened
from tests.ca.running import make_decision, make_registration


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[Founded]:
    async with opened(tmp_path / "d") as founded:
        yield founded


def make_log(
    core: Founded, metrics: Metrics | None = None, *, rows: int = 1000, size: int = 2**30, **options: Any
) -> Decisions:
    limits = Retention(max_age_s=3600, max_rows=rows, max_bytes=size)
    return Decisions(core.store, metrics=metrics or Metrics(), limits=limits, **options)


async def test_a_sidecar_speaks_for_itself_alone(core: Founded) -> None:
    metrics = Metrics()
    log = make_log(core, metrics)
    forged = make_decision("forged", sidecar="other", namespace="bank")
    await log.take_in([forged, make_decision("own", direction=Direction.EGRESS)], instance="a", workload=WEB, lost=3)
    found = await log.query(DecisionFilter())
    assert [(one.record.connection, one.record.sidecar, one.record.namespace) for one in found] == [
        ("own", "a", "shop"),
        ("forged", "a", "shop"),
    ]
    text = metrics.render().decode()
    assert "touchmark_ca_decisions_corrected_total 1.0" in text
    assert "touchmark_ca_decisions_lost_total 3.0" in text
    assert "touchmark_ca_decisions_stored_total 2.0" in text
    assert log.lost == 3


async def test_beyond_its_share_a_sidecars_records_only_count_in_the_edges_and_the_others_are_kept(
    core: Founded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one that floods would have everybody's decisions pruned within minutes."""
    monkeypatch.setattr(decisions, "BURST", 3)
    now = 1000.0
    for instance in ("a", "b"):
        await join(core, instance)
    metrics = Metrics()
    stored: list[DecisionRecord] = []
    moment = time.time()
    log = make_log(core, metrics, on_stored=stored.extend, monotonic=lambda: now)

    async def send(instance: str, batch: int, count: int) -> None:
        records = [
            make_decision(f"{instance}-{batch}-{number}", time=moment, sidecar=instance) for number in range(count)
        ]
        await log.take_in(records, instance=instance, workload=WEB, lost=0, batch=batch)

    await send("a", 1, 5)
    await send("a", 2, 1)
    await send("b", 1, 2)
    now += 1.0
    await send("a", 3, 2)
    kept = {each.record.connection for each in await log.query(DecisionFilter())}
    assert kept == {"a-1-0", "a-1-1", "a-1-2", "b-1-0", "b-1-1", "a-3-0", "a-3-1"}
    assert {each.connection for each in stored} == kept
    window = await core.store.edges.list_edges("shop", since=moment - 3600)
    assert sum(each.ended for each in window.edges) == 10
    text = metrics.render().decode()
    assert "touchmark_ca_decisions_over_quota_total 3.0" in text
    assert "touchmark_ca_decisions_stored_total 7.0" in text


@pytest.mark.parametrize(
    "impossible",
    [
        {"port": 65536},
        {"port": -1},
        {"count": 0},
        {"time": -1.0},
        {"time": 1e15},
        {"detail": "x" * MAX_DECISION_BYTES},
        {"source": PartyRecord(program="sha256:abc")},
        {"source": PartyRecord(workload="no workload")},
        {"destination": PartyRecord(listed="shop/web\x1b[2J")},
        {"destination": PartyRecord(identity="spiffe://a/\x1b]0;x")},
        {"source": PartyRecord(address="x" * 3000)},
        {"source": PartyRecord(address="192.0.2.7:40000", hosts=("api.example.com",))},
        {"destination": PartyRecord(address="192.0.2.7:443", hosts=("api.example.com\x1b[2J",))},
        {
            "destination": PartyRecord(
                address="192.0.2.7:443", hosts=tuple(f"h{number}.example" for number in range(17))
            )
        },
        {"process": ProcessRecord(pid=1, digest="not a digest")},
        {"rule": "\x1b[2J"},
    ],
    ids=str,
)
async def test_what_cannot_be_is_counted_as_lost_and_the_rest_of_its_batch_is_stored(
    core: Founded, impossible: dict[str, object]
) -> None:
    """A refused batch would be sent for ever, and keep every other decision of its sidecar from the CA."""
    log = make_log(core)
    batch = [make_decision("fine"), make_decision("impossible", **impossible), make_decision("fine too")]
    await log.take_in(batch, instance="a", workload=WEB, lost=2)
    assert [each.record.connection for each in await log.query(DecisionFilter())] == ["fine too", "fine"]
    assert log.lost == 3


async def test_the_reporters_own_end_is_who_the_ca_knows_it_is(core: Founded) -> None:
    """Else a sidecar's record would offer a program of its choice for approval in another workload."""
    log = make_log(core)
    program = "sha256:" + "e" * 64
    bank = "spiffe://touchmark.local/ns/bank/sa/db/sha256/" + "e" * 64
    forged = PartyRecord(workload="bank/db", listed="bank/db", program=program, identity=bank)
    other = PartyRecord(workload="bank/api", program=program)
    records = [
        make_decision("egress", direction=Direction.EGRESS, source=forged, destination=other),
        make_decision("ingress", direction=Direction.INGRESS, source=other, destination=forged),
        make_decision("nameless", direction=Direction.INGRESS, source=other, destination=PartyRecord(program=program)),
    ]
    await log.take_in(records, instance="a", workload=WEB, lost=0)
    found = {one.record.connection: one.record for one in await log.query(DecisionFilter())}
    own = PartyRecord(workload="shop/web", listed="shop/web", program=program)
    assert (found["egress"].source, found["egress"].destination) == (own, other)
    assert (found["ingress"].source, found["ingress"].destination) == (other, own)
    assert found["nameless"].destination == PartyRecord(program=program)


async def test_a_count_beyond_belief_is_cut(core: Founded) -> None:
    log = make_log(core)
    await log.take_in([make_decision("", count=10**9)], instance="a", workload=WEB, lost=0)
    assert [one.record.count for one in await log.query(DecisionFilter())] == [1_000_000]


async def test_a_follower_misses_nothing_between_two_pages(core: Founded) -> None:
    log = make_log(core)
    await log.take_in([make_decision("before")], instance="a", workload=WEB, lost=0)
    pages = await log.follow(DecisionFilter(since=0))
    assert [one.record.connection for one in await anext(pages)] == ["before"]
    for number in range(3):
        await log.take_in([make_decision(f"c{number}")], instance="a", workload=WEB, lost=0)
    assert [one.record.connection for one in await anext(pages)] == ["c0", "c1", "c2"]


async def test_a_follower_looks_once_through_what_it_does_not_want(
    core: Founded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each batch that arrives would have all that came before looked through again."""
    log = make_log(core)
    asked: list[int | None] = []
    real = core.store.decisions.look

    async def look(wanted: DecisionFilter) -> Look:
        asked.append(wanted.after_id)
        return await real(wanted)

    monkeypatch.setattr(core.store.decisions, "look", look)
    await log.take_in([make_decision("first"), make_decision("second")], instance="a", workload=WEB, lost=0)
    last = await core.store.decisions.get_last_id()
    monkeypatch.setattr(decisions, "FOLLOW_IDLE_S", 0.0)
    pages = await log.follow(DecisionFilter(since=0, namespace="nobody's"))
    assert [await anext(pages), await anext(pages)] == [[], []]
    assert asked == [0, last]


async def test_a_batch_whose_acknowledgement_was_lost_is_stored_and_forwarded_once(core: Founded) -> None:
    metrics = Metrics()
    forwarded: list[int] = []
    log = make_log(core, metrics, on_stored=lambda records: forwarded.append(len(records)))
    registration = make_registration("a")
    grant = JoinGrant(workload=WEB, addresses=(), instance="a")
    async with core.store.database.writing() as connection:
        await core.store.sidecars.enter(connection, grant, 1.0, key_digest=b"key", replaces=None)
        await core.store.sidecars.note_registration(connection, grant, registration, 1.0)
    batch = [make_decision("one"), make_decision("two")]
    for _ in range(2):
        await log.take_in(batch, instance="a", workload=WEB, lost=3, batch=1)
    restarted = make_log(core, metrics)
    await restarted.take_in(batch, instance="a", workload=WEB, lost=3, batch=1)
    assert len(await log.query(DecisionFilter())) == 2
    assert (log.lost, restarted.lost, forwarded) == (3, 0, [2])
    assert "touchmark_ca_decisions_stored_total 2.0" in metrics.render().decode()
    await log.take_in(batch, instance="a", workload=WEB, lost=0, batch=2)
    await log.take_in([], instance="a", workload=WEB, lost=4, batch=3)
    await log.take_in([], instance="a", workload=WEB, lost=4, batch=3)
    assert (len(await log.query(DecisionFilter())), log.lost) == (4, 7)


async def test_a_store_that_fails_stores_nothing_and_says_so(core: Founded, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_records: object, **_: object) -> int:
        raise UnavailableError("the disk is full")

    monkeypatch.setattr(core.store.decisions, "insert", fail)
    with pytest.raises(UnavailableError):
        await make_log(core).take_in([make_decision("c")], instance="a", workload=WEB, lost=0)


@pytest.fixture
def _roomy_disk(core: Founded, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the disk stays free: on a machine whose disk is that full, much more would go."""

    async def look() -> Space:
        return Space(free=1 << 40, total=1 << 41)

    monkeypatch.setattr(core.store.database, "look_at_disk", look)


@pytest.mark.usefixtures("_roomy_disk")
async def test_retention_keeps_what_is_young_and_no_more_rows_than_it_may(
    core: Founded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One round forgets all that is due, however many transactions it takes: a busy mesh must not outrun it."""
    monkeypatch.setattr(decision_log, "_PRUNED_AT_ONCE", 4)
    log = make_log(core, rows=10)
    old = [make_decision(f"old{n}", time=NOW - 3601) for n in range(30)]
    await log.take_in(
        [*old, *(make_decision(f"new{n}", time=NOW) for n in range(15))], instance="a", workload=WEB, lost=0
    )
    assert await log.prune(now=NOW) == 35
    kept = [one.record.connection for one in await log.query(DecisionFilter())]
    assert kept == [f"new{n}" for n in range(14, 4, -1)]
    assert await log.prune(now=NOW) == 0


@pytest.mark.usefixtures("_roomy_disk")
async def test_retention_keeps_no_more_bytes_than_it_may(core: Founded) -> None:
    log = make_log(core, size=100_000)
    await log.take_in(
        [make_decision(f"c{n}", time=NOW, detail="x" * 1000) for n in range(200)], instance="a", workload=WEB, lost=0
    )
    rows, row_bytes = await core.store.decisions.estimate_size()
    assert rows == 200 and 2000 < row_bytes < 4000
    assert await log.prune(now=NOW) == 200 - int(100_000 / row_bytes)
    assert await log.prune(now=NOW) == 0
    assert (await log.query(DecisionFilter(limit=1)))[0].record.connection == "c199"
