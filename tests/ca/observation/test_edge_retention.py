"""Edges are kept for a time, within bytes, and a full disk forgets the oldest."""

from __future__ import annotations

from pathlib import Path

import pytest

from ca.observation.edge_retention import EdgeRetention
from ca.store.edges.edge import Report
from ca.store.engine.disk import Space
from ca.store.store import Store
from shared.model.policy.decision import Answer
from tests.ca.founded import NOW
from tests.ca.running import make_decision

DAYS = 6
REPORT = Report(instance="a", namespace="shop", service_account="db")


async def test_the_least_of_age_bytes_and_free_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await Store.open(tmp_path, trust_domain="mesh.test")

    async def half_empty() -> Space:
        return Space(free=5_000, total=10_000)

    monkeypatch.setattr(store.database, "look_at_disk", half_empty)
    try:
        for day in range(DAYS):
            now = NOW - day * 86_400
            record = make_decision("c", time=now, port=day, answer=Answer.ALLOW)
            async with store.database.writing() as connection:
                await store.edges.add(connection, [record], REPORT, now=now)

        async def count() -> int:
            return len((await store.edges.list_edges("shop", since=0)).edges)

        keep = EdgeRetention(store, max_age_s=30 * 86_400, max_bytes=2**30)
        assert (await keep.prune(now=NOW), await count()) == (0, DAYS)
        assert await EdgeRetention(store, max_age_s=4.5 * 86_400, max_bytes=2**30).prune(now=NOW) > 0
        assert await count() == DAYS - 1
        size, _ = await store.edges.estimate_bytes()
        assert await EdgeRetention(store, max_age_s=30 * 86_400, max_bytes=size - 1).prune(now=NOW) > 0
        assert await count() == DAYS - 2

        async def nearly_full() -> Space:
            return Space(free=999, total=10_000)

        monkeypatch.setattr(store.database, "look_at_disk", nearly_full)
        assert await keep.prune(now=NOW) > 0
        assert await count() == DAYS - 3
    finally:
        await store.close()
