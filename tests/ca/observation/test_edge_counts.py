"""Connections by workload, with as many series as the bound says and no more."""

from __future__ import annotations

import pytest

from ca.metrics import Metrics
from ca.observation import edge_counts as module
from ca.observation.edge_counts import EdgeCounts
from shared.model.policy.decision import Answer, DecisionRecord, PartyRecord, Phase
from shared.model.policy.rules import Direction
from tests.shared.model.policy.records import make_record


def read(metrics: Metrics) -> list[str]:
    lines = metrics.render().decode().splitlines()
    return [line for line in lines if line.startswith("touchmark_ca_connections_total{")]


def test_ends_are_counted_by_workload_side_and_verdict() -> None:
    metrics = Metrics()
    counts = EdgeCounts(metrics)
    allowed = make_record(answer=Answer.ALLOW, count=3, destination=PartyRecord(listed="shop/db"))
    counts.count([make_record(), allowed, make_record(phase=Phase.START, answer=Answer.ALLOW)])
    assert [line.partition("{")[2] for line in read(metrics)] == [
        'destination="outside",direction="egress",source="shop/web",verdict="deny"} 1.0',
        'destination="shop/db",direction="egress",source="shop/web",verdict="allow"} 3.0',
    ]


def test_beyond_the_bound_there_is_one_series_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_EDGES", 2)
    metrics = Metrics()
    counts = EdgeCounts(metrics)
    records = [make_record(source=PartyRecord(workload=f"shop/s{number}")) for number in range(5)]
    counts.count(records)
    counts.count(records)
    lines = read(metrics)
    assert len(lines) == 3
    assert any('source="other"' in line and line.endswith(" 6.0") for line in lines)


@pytest.mark.parametrize("direction", list(Direction))
def test_a_sidecar_that_invents_other_ends_takes_no_place_of_other_workloads(
    monkeypatch: pytest.MonkeyPatch, direction: Direction
) -> None:
    monkeypatch.setattr(module, "MAX_EDGES", 4)
    monkeypatch.setattr(module, "MAX_EDGES_PER_REPORTER", 2)
    metrics = Metrics()
    counts = EdgeCounts(metrics)

    def report(own: str, other: str) -> DecisionRecord:
        ends = PartyRecord(workload=own), PartyRecord(listed=other)
        source, destination = ends if direction is Direction.EGRESS else ends[::-1]
        return make_record(source=source, destination=destination, direction=direction)

    counts.count([report("shop/evil", f"shop/invented{number}") for number in range(9)])
    counts.count([report("shop/web", "shop/db")])
    lines = read(metrics)
    assert len(lines) == 4
    assert any('"shop/web"' in line and '"shop/db"' in line for line in lines)
    assert any('source="other"' in line and line.endswith(" 7.0") for line in lines)
