"""What is counted on a connection's way: verdicts, bytes, attestations, handshakes. No I/O.

Belongs here: the counting objects. Doesn't: when something counts (the stories, ``connection/recording.py``), or how
it is shown (``exposition.py``). Keys are our own enumerations, never a peer's words, so that each table is bounded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from shared.model.policy.decision import Answer, DecisionRecord, Phase
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction

ATTESTATION_BUCKETS_S: Final = (
    0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0,
)  # fmt: skip
HANDSHAKE_BUCKETS_S: Final = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Histogram:
    """Observations in buckets.

    Arguments:
        bounds: upper bounds, ascending; what is above the last one is in a bucket of its own.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


Cause = tuple[Direction, Answer, bool, Reason]


class DecisionCounts:
    """Counts the connections that have ended, by verdict and reason, and their bytes."""

    def __init__(self) -> None:
        self.decisions: dict[Cause, int] = {}
        self.bytes_sent = dict.fromkeys(Direction, 0)
        self.bytes_received = dict.fromkeys(Direction, 0)
        self.peers_elsewhere = 0

    def count(self, record: DecisionRecord) -> None:
        """Count a record; one of a connection's start doesn't count, its end will."""
        if record.phase is not Phase.END:
            return
        cause = (record.direction, record.answer, record.would_deny, record.reason)
        self.decisions[cause] = self.decisions.get(cause, 0) + 1
        self.bytes_sent[record.direction] += record.bytes_sent
        self.bytes_received[record.direction] += record.bytes_received
        source = record.source
        if source.listed and source.identity and source.workload != source.listed:
            self.peers_elsewhere += record.direction is Direction.INGRESS


class StoryCounts:
    """Counts what the stories do on their way.

    Attributes:
        attestations: seconds of each attestation of a client's or a listener's program that succeeded.
        attestations_failed: by reason.
        handshakes: seconds of each handshake with a peer that arrived, from its ClientHello, that held.
        handshakes_failed: by reason.
        holds_connects: programs' ``connect()`` waits for the look at them; None where it isn't asked for.
    """

    __slots__ = ("attestations", "attestations_failed", "handshakes", "handshakes_failed", "holds_connects")

    def __init__(self) -> None:
        self.attestations = Histogram(ATTESTATION_BUCKETS_S)
        self.attestations_failed: dict[Reason, int] = {}
        self.handshakes = Histogram(HANDSHAKE_BUCKETS_S)
        self.handshakes_failed: dict[Reason, int] = {}
        self.holds_connects: bool | None = None

    def fail_attestation(self, reason: Reason) -> None:
        """Count an attestation that gave no program."""
        self.attestations_failed[reason] = self.attestations_failed.get(reason, 0) + 1

    def fail_handshake(self, reason: Reason) -> None:
        """Count a handshake that didn't hold."""
        self.handshakes_failed[reason] = self.handshakes_failed.get(reason, 0) + 1
