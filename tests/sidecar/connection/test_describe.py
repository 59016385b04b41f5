"""What a record says, from a connection's state alone."""

from __future__ import annotations

from types import SimpleNamespace

from msgspec.structs import replace

from shared.model.policy.decision import Answer, Ending, Phase, Transport
from shared.model.policy.evaluate import Verdict
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, Mode
from sidecar.connection.describe import MAX_DETAIL_CHARACTERS, RefusedAttempt, make_record
from sidecar.connection.parties import Parties
from tests.sidecar.pair import CLIENT, CLIENT_PROGRAM, FakePolicies, approve

POLICIES = FakePolicies("shop", {"shop": approve((CLIENT, CLIENT_PROGRAM))})


def test_what_was_refused_before_it_began_says_where_by_whom_and_why() -> None:
    parties = Parties(Direction.INGRESS, source=("198.18.0.1", 40000), destination=("2001:db8::2", 5432))
    attempt = RefusedAttempt(
        id="0" * 16, parties=parties, refusal=Reason.HANDSHAKE_FAILED, detail="x" * 900, transport=Transport.TUNNEL
    )
    record = make_record(
        attempt, POLICIES, sidecar="web-1", phase=Phase.END, ending=Ending.REFUSED, now=7.0, duration_s=0.1234567
    )
    assert (record.answer, record.reason, record.ending) == (Answer.DENY, Reason.HANDSHAKE_FAILED, Ending.REFUSED)
    assert (record.namespace, record.sidecar, record.policy_version) == ("shop", "web-1", 1)
    assert (record.source.address, record.destination.address) == ("198.18.0.1:40000", "[2001:db8::2]:5432")
    assert record.source.why == Reason.PEER_UNIDENTIFIED
    assert (record.time, record.duration_s, len(record.detail)) == (7.0, 0.123457, MAX_DETAIL_CHARACTERS)


def test_what_explicit_mode_would_have_closed_is_marked_with_program_and_reason() -> None:
    parties = Parties(Direction.EGRESS, source=("198.18.0.1", 40000), destination=("198.18.0.2", 5432))
    parties.source = replace(parties.source, workload=CLIENT, program=CLIENT_PROGRAM)
    verdict = Verdict(allowed=True, reason=Reason.SAME_GROUP, mode=Mode.PERMISSIVE, policy_version=1)
    connection = SimpleNamespace(
        id="0" * 16, parties=parties, verdict=verdict, refusal=None, refused_in_explicit=Reason.HOLDERS_UNKNOWN,
        detail="process 7", transport=Transport.TUNNEL, tunnel="", bytes_sent=1, bytes_received=1,
    )  # fmt: skip
    record = make_record(
        connection, POLICIES, sidecar="w", phase=Phase.END, ending=Ending.FINISHED, now=0, duration_s=0
    )
    assert (record.answer, record.would_deny, record.reason) == (Answer.ALLOW, True, Reason.HOLDERS_UNKNOWN)
    assert (record.source.program, record.source.why) == (str(CLIENT_PROGRAM), "holders_unknown")
    assert (record.destination.why, record.detail) == ("peer_unidentified", "process 7")


def test_a_party_is_approved_only_by_its_own_program() -> None:
    parties = Parties(Direction.EGRESS, source=("198.18.0.1", 40000), destination=("198.18.0.2", 5432))
    parties.source = replace(parties.source, workload=CLIENT, program=CLIENT_PROGRAM)
    attempt = RefusedAttempt(id="0" * 16, parties=parties, refusal=Reason.NO_RULE, detail="", transport=Transport.NONE)
    record = make_record(attempt, POLICIES, sidecar="w", phase=Phase.END, ending=Ending.REFUSED, now=0, duration_s=0)
    assert (record.source.approved, record.source.workload, record.source.why) == (True, "shop/web", "")
    assert (record.destination.approved, record.destination.workload) == (False, "")
