"""Decisions: filtered, grouped by cause, pruned."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ca.store import decision_log
from ca.store.decision_log import StoredPart, encode_record
from ca.store.edges.edge import Report
from ca.store.engine.database import Database
from ca.store.records import DecisionFilter, JoinGrant
from ca.store.store import Store
from shared.model.errors import UnavailableError
from shared.model.identity.identity import Workload
from shared.model.policy.decision import Answer, DecisionRecord, Ending, PartyRecord, Transport
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, Mode
from tests.ca.founded import NOW, join, opened
from tests.shared.model.policy.records import make_record


def decision(connection: str, *, time: float = NOW, denied: bool = False, sidecar: str = "one") -> DecisionRecord:
    return make_record(
        time=time,
        sidecar=sidecar,
        direction=Direction.INGRESS,
        answer=Answer.DENY if denied else Answer.ALLOW,
        would_deny=not denied,
        mode=Mode.PERMISSIVE,
        source=PartyRecord(workload="shop/web", program="sha256:" + "a" * 64),
        destination=PartyRecord(workload="shop/db", program="sha256:" + "b" * 64),
        transport=Transport.TUNNEL,
        tunnel="t",
        connection=connection,
        ending=Ending.FINISHED,
    )


async def test_each_filter_selects_and_the_order_is_as_said(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        last = await core.store.decisions.insert(
            [decision("c1"), decision("c2", denied=True), decision("c3", time=NOW + 10)]
        )

        async def found(**filters: object) -> list[str]:
            rows = await core.store.decisions.query(DecisionFilter(**filters))  # type: ignore[arg-type]
            return [row.record.connection for row in rows]

        assert await found() == ["c3", "c2", "c1"]
        assert await found(denied=True) == ["c2"]
        assert await found(would_deny=True, limit=1) == ["c3"]
        assert await found(since=NOW + 1) == ["c3"]
        assert await found(until=NOW + 1, workload="shop/db") == ["c2", "c1"]
        assert await found(program="sha256:aa") == ["c3", "c2", "c1"]
        assert await found(program="sha256:%") == []
        assert await found(namespace="other") == []
        assert await found(reason=Reason.NO_RULE) == []
        assert await found(after_id=last - 2) == ["c2", "c3"]


async def test_what_no_index_has_is_looked_for_in_portions_until_there_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each finds what one look would, whatever the portions are, also where many have the same time."""
    base = decision("c")
    program = "sha256:" + "c" * 64
    records = [
        msgspec.structs.replace(
            base,
            connection=f"c{number}",
            time=NOW + number // 3,
            answer=Answer.DENY if number % 4 == 0 else Answer.ALLOW,
            would_deny=number % 4 == 1,
            reason=Reason.NO_RULE if number % 4 < 2 else Reason.ALLOW_RULE,
            namespace="shop" if number % 2 else "bank",
            source=PartyRecord(workload="shop/web", program=program if number % 5 == 0 else base.source.program),
        )
        for number in range(40)
    ]
    async with opened(tmp_path / "d") as core:
        log = core.store.decisions
        await log.insert(records)
        filters: tuple[dict[str, Any], ...] = (
            {"program": program},
            {"program": program, "limit": 3},
            {"program": program, "denied": True},
            {"namespace": "bank", "denied": True},
            {"namespace": "shop", "denied": True},
            {"namespace": "shop", "would_deny": True, "since": NOW + 2, "until": NOW + 11},
            {"reason": Reason.ALLOW_RULE},
            {"reason": Reason.NO_RULE, "denied": False},
            {"workload": "shop/web", "program": program},
            {"workload": "shop/db", "namespace": "bank", "limit": 7},
            {"draft_differs": False, "denied": False, "limit": 9},
            {"program": program, "after_id": 0},
            {"denied": True, "after_id": 11, "limit": 4},
            {"workload": "shop/db", "since": NOW + 3, "after_id": 2},
        )
        whole = [await log.query(DecisionFilter(**each)) for each in filters]
        assert [number for number, found in enumerate(whole) if not found] == [4]  # Nothing of the shop is denied.
        for portion in (1, 2, 7):
            monkeypatch.setattr(decision_log, "LOOKED_AT_ONCE", portion)
            assert [await log.query(DecisionFilter(**each)) for each in filters] == whole


async def test_a_portion_says_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_log, "LOOKED_AT_ONCE", 2)
    async with opened(tmp_path / "d") as core:
        log = core.store.decisions
        await log.insert([decision(f"c{number}", time=NOW + number) for number in range(5)])
        look = await log.look(DecisionFilter(program="sha256:cc"))
        assert (look.found, look.rest) == ([], DecisionFilter(program="sha256:cc", until=NOW + 2))
        assert (await log.look(DecisionFilter(namespace="shop"))).rest is None  # An index has it as a whole.
        look = await log.look(DecisionFilter(after_id=1, reason=Reason.SOCKET_SHARED))
        assert look.rest == DecisionFilter(after_id=3, reason=Reason.SOCKET_SHARED)
        assert (await log.look(DecisionFilter(after_id=3, reason=Reason.SOCKET_SHARED))).rest is None
        assert (await log.look(DecisionFilter(after_id=5))).rest is None


async def test_refusals_are_listed_newest_first_and_bounded(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await core.store.decisions.insert([decision("c1"), decision("c1", sidecar="two"), decision("c2")])
        refusals = await core.store.decisions.list_refusals("shop", since=NOW, limit=2)
        assert [record.connection for record in refusals] == ["c2", "c1"]
        assert len(await core.store.decisions.list_refusals("shop", since=NOW, limit=9)) == 3
        assert await core.store.decisions.list_refusals("shop", since=NOW + 1, limit=9) == []
        assert await core.store.decisions.list_reporting_sidecars("shop", since=NOW) == {"one", "two"}


async def test_the_oldest_go_by_age_and_by_number(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await core.store.decisions.insert([decision(f"c{number}", time=NOW + number) for number in range(6)])
        assert await core.store.decisions.prune(max_age_s=10, max_rows=100, now=NOW + 12) == 2
        assert await core.store.decisions.prune(max_age_s=100, max_rows=3, now=NOW + 12) == 1
        rows = await core.store.decisions.query(DecisionFilter())
        assert [row.record.connection for row in rows] == ["c5", "c4", "c3"]


async def test_who_goes_while_its_batch_is_stored_has_stored_it_once_and_that_is_told(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With SQLite, whose transactions are run in its thread; PostgreSQL's end with their caller."""
    async with opened(tmp_path_factory.mktemp("d")) as core:
        store = core.store
        grant = JoinGrant(workload=Workload(namespace="shop", service_account="db"), addresses=(), instance="one")
        async with store.database.writing() as connection:
            await store.sidecars.enter(connection, grant, 1.0, key_digest=b"key", replaces=None)
        begins, goes_on = threading.Event(), threading.Event()
        add = store.edges.add

        async def add_slowly(*arguments: object, **named: object) -> None:
            begins.set()
            goes_on.wait()
            await add(*arguments, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(store.edges, "add", add_slowly)
        committed: list[StoredPart | None] = []
        records = [decision("c1"), decision("c2")]

        async def send() -> int | None:
            return await store.decisions.insert_batch(
                records,
                Report(instance="one", namespace="shop", service_account="db"),
                texts=[encode_record(record) for record in records],
                digest="first",
                on_commit=committed.append,
            )

        sending = asyncio.create_task(send())
        await asyncio.to_thread(begins.wait)
        sending.cancel()
        goes_on.set()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert await send() is None
        assert committed == [StoredPart(last_id=2, begin=0, end=2), None]
        assert len(await store.decisions.query(DecisionFilter())) == 2


async def test_a_batch_in_parts_is_the_same_as_one_and_goes_on_where_it_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While certificates wait for the writer a batch is stored in parts, none of them twice."""
    # The newest first: of an edge's examples it is kept, where others are younger by less than minutes.
    records = [decision(f"c{number}", time=NOW - number) for number in range(5)]
    texts = [encode_record(record) for record in records]
    monkeypatch.setattr(decision_log, "PART", 2)
    found = []
    for name, is_pressed in (("whole", False), ("parts", True)):
        monkeypatch.setattr(Database, "is_pressed", is_pressed)
        async with opened(tmp_path / name) as core:
            store, committed = core.store, list[StoredPart | None]()
            monkeypatch.setattr(store.edges, "_days", set())
            await join(core, "one", workload=Workload(namespace="shop", service_account="db"))
            report = Report(instance="one", namespace="shop", service_account="db", lost=7, is_first=True)
            store.decisions._clock = lambda: NOW
            add, added = store.edges.add, list[int]()

            async def add_or_fail(*arguments: Any, _add: Any = add, _added: list[int] = added, **named: Any) -> None:
                _added.append(len(arguments[1]))
                if len(_added) == 2:
                    raise UnavailableError("the disk is full")
                await _add(*arguments, **named)

            async def send(
                digest: str = "first", *, _store: Store = store, _report: Report = report, _to: Any = committed.append
            ) -> int | None:
                return await _store.decisions.insert_batch(records, _report, texts=texts, digest=digest, on_commit=_to)

            monkeypatch.setattr(store.edges, "add", add_or_fail)
            if is_pressed:
                with pytest.raises(UnavailableError):
                    await send()
            last = await send()
            assert await send() is None
            ends = [part.end for part in committed if part is not None]
            assert ends == ([2, 4, 5] if is_pressed else [5]) and committed[-1] is None
            assert last == await store.decisions.get_last_id()
            rows = await store.decisions.query(DecisionFilter())
            edges = await store.edges.list_edges("shop", since=0)
            reports = await store.edges.list_reports("shop", since=0)
            found.append((sorted(row.record.connection for row in rows), edges, reports))
    assert found[0] == found[1]
    assert found[0][0] == ["c0", "c1", "c2", "c3", "c4"]


async def test_a_batch_in_parts_ends_also_where_its_sidecar_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nowhere to mark how far it has come."""
    monkeypatch.setattr(decision_log, "PART", 2)
    monkeypatch.setattr(Database, "is_pressed", True)
    records = [decision(f"c{number}") for number in range(4)]
    async with opened(tmp_path / "d") as core:
        core.store.decisions._clock = lambda: NOW
        await core.store.decisions.insert_batch(
            records,
            Report(instance="gone", namespace="shop", service_account="db"),
            texts=[encode_record(record) for record in records],
            digest="first",
        )
        assert len(await core.store.decisions.query(DecisionFilter())) == 4
