"""Counting: buckets, verdicts, bytes, and certificates from other workloads' addresses."""

from __future__ import annotations

import msgspec

from shared.model.policy.decision import Answer, DecisionRecord, PartyRecord, Phase
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction
from sidecar.figures.counts import DecisionCounts, Histogram, StoryCounts
from tests.sidecar.connection.test_recording import DENIAL


def test_an_observation_counts_in_the_first_bucket_that_holds_it() -> None:
    histogram = Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 7.0):
        histogram.observe(value)
    assert histogram.counts == [2, 1, 1]
    assert histogram.total == 7.65


def make(**changes: object) -> DecisionRecord:
    return msgspec.structs.replace(DENIAL, direction=Direction.INGRESS, phase=Phase.END, **changes)


def test_ends_are_counted_by_verdict_and_reason_and_starts_are_not() -> None:
    counts = DecisionCounts()
    for _ in range(2):
        counts.count(make(answer=Answer.ALLOW, reason=Reason.SAME_GROUP, bytes_sent=3, bytes_received=5))
    counts.count(make(answer=Answer.DENY, reason=Reason.NO_RULE, bytes_sent=0, bytes_received=0))
    counts.count(msgspec.structs.replace(make(), phase=Phase.START))
    assert counts.decisions == {
        (Direction.INGRESS, Answer.ALLOW, False, Reason.SAME_GROUP): 2,
        (Direction.INGRESS, Answer.DENY, False, Reason.NO_RULE): 1,
    }
    assert (counts.bytes_sent[Direction.INGRESS], counts.bytes_received[Direction.INGRESS]) == (6, 10)
    assert counts.bytes_sent[Direction.EGRESS] == 0


def test_a_certificate_from_another_workloads_address_is_counted() -> None:
    counts = DecisionCounts()
    identity = "spiffe://td/ns/shop/sa/web/sidecar"
    for source in (
        PartyRecord(workload="shop/web", listed="shop/web", identity=identity),
        PartyRecord(listed="bank/teller"),
        PartyRecord(workload="shop/web", identity=identity),
        PartyRecord(workload="shop/web", listed="bank/teller", identity=identity),
    ):
        counts.count(make(source=source))
    assert counts.peers_elsewhere == 1


def test_failures_are_counted_by_reason() -> None:
    counts = StoryCounts()
    for _ in range(2):
        counts.fail_attestation(Reason.NO_OWNER)
    counts.fail_handshake(Reason.HANDSHAKE_FAILED)
    assert counts.attestations_failed == {Reason.NO_OWNER: 2}
    assert counts.handshakes_failed == {Reason.HANDSHAKE_FAILED: 1}
