"""Decisions: filtered, grouped by cause, pruned."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from ca.store.decision_log import encode_record
from ca.store.edges.edge import Report
from ca.store.records import DecisionFilter, JoinGrant
from shared.model.identity.identity import Workload
from shared.model.policy.decision import Answer, DecisionRecord, Ending, PartyRecord, Transport
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, Mode
from tests.ca.founded import NOW, opened
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
        committed: list[int | None] = []
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
        assert committed == [2, None]
        assert len(await store.decisions.query(DecisionFilter())) == 2
