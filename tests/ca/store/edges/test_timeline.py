"""What a namespace's own sidecars decided by the hour, on both databases."""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from ca.store.edges.timeline import MAX_HOURS
from shared.model.policy.decision import Answer, PartyRecord
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction
from tests.ca.founded import opened
from tests.ca.store.edges.test_edge_log import HOUR_S, NOW, add, allow

read = attrgetter("hour", "sidecars", "lost", "allowed", "would_deny", "denied")
pytestmark = pytest.mark.usefixtures("backend")


async def test_each_hour_has_what_its_own_sidecars_decided(tmp_path: Path) -> None:
    async with opened(tmp_path) as core:
        store = core.store
        egress: dict[str, Any] = {"direction": Direction.EGRESS, "namespace": "shop"}
        inside = {**egress, "destination": PartyRecord(address="198.18.0.3:80", workload="shop/db")}
        for hour, records in (
            (9, [allow(NOW - 9 * HOUR_S, **egress, count=3)]),
            (1, [allow(NOW - HOUR_S, **egress), allow(NOW - HOUR_S, **egress, would_deny=True, reason=Reason.NO_RULE)]),
            (0, [allow(NOW, **egress, port=port, answer=Answer.DENY, reason=Reason.NO_RULE) for port in (1, 2)]),
            (0, [allow(NOW, **inside), allow(NOW, **{**inside, "direction": Direction.INGRESS})]),
        ):
            await add(store, records, now=NOW - hour * HOUR_S)
        await add(store, [allow(NOW, **egress)], now=NOW, instance="two", lost=4)
        found = await store.edges.list_timeline("shop", since=0, until=NOW)
        assert [read(each) for each in found] == [
            (499_991, 1, 0, 3, 0, 0),
            (499_999, 1, 0, 1, 1, 0),
            (500_000, 2, 4, 3, 0, 2),
        ]
        assert [each.hour for each in await store.edges.list_timeline("shop", since=NOW - 100, until=NOW - 90)] == [
            499_999
        ]
        assert await store.edges.list_timeline("bank", since=0, until=NOW) == [], (
            "the destination's sidecar said nothing"
        )
        far = NOW - 60 + MAX_HOURS * HOUR_S
        assert [each.hour for each in await store.edges.list_timeline("shop", since=0, until=far)] == [500_000], (
            "bounded"
        )
