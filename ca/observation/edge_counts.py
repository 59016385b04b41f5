"""Connections by both ends' workloads, as a Prometheus counter with bounded labels. Counts only; no I/O.

Each side's report counts under its own direction: one direction alone counts each connection once where both ends are
in the mesh. Workloads of the reporter are what the CA knows, the other end's are the reporter's word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ca.metrics import Metrics
from shared.model.formats.endpoint import name_verdict
from shared.model.policy.decision import DecisionRecord, PartyRecord, Phase
from shared.model.policy.rules import Direction

MAX_EDGES: Final = 1_000  # Pairs of workloads; each has up to six series. The rest is one pair more.
MAX_EDGES_PER_REPORTER: Final = 100  # It may invent other ends, and series last as long as the replica.
OUTSIDE: Final = "outside"
OTHER: Final = "other"


class EdgeCounts:
    """Counts what has ended, in one replica since its start."""

    def __init__(self, metrics: Metrics) -> None:
        self._connections = metrics.connections
        self._known: set[tuple[str, str]] = set()
        self._reported: dict[str, int] = {}  # How many pairs each workload has brought.

    def count(self, records: Sequence[DecisionRecord]) -> None:
        """Count records that are stored; starts of connections whose end will come aren't."""
        for record in records:
            if record.phase is not Phase.END:
                continue
            pair = _name(record.source), _name(record.destination)
            if pair not in self._known and not self._add(pair, pair[record.direction is Direction.INGRESS]):
                pair = OTHER, OTHER
            self._connections.labels(*pair, record.direction, name_verdict(record)).inc(record.count)

    def _add(self, pair: tuple[str, str], reporter: str) -> bool:
        brought = self._reported.get(reporter, 0)
        if len(self._known) >= MAX_EDGES or brought >= MAX_EDGES_PER_REPORTER:
            return False
        self._known.add(pair)
        self._reported[reporter] = brought + 1
        return True


def _name(party: PartyRecord) -> str:
    return party.workload or party.listed or OUTSIDE
