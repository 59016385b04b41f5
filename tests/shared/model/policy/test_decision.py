"""The record of a decision: constant keys, strict values."""

from __future__ import annotations

import msgspec
import pytest

from shared.model.policy.decision import (
    Answer,
    DecisionRecord,
    Ending,
    PartyRecord,
    Phase,
    ProcessRecord,
    Transport,
)
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, Mode


def make_record() -> DecisionRecord:
    return DecisionRecord(
        time=1_800_000_000.5,
        namespace="shop",
        sidecar="web-1",
        phase=Phase.END,
        direction=Direction.EGRESS,
        answer=Answer.DENY,
        would_deny=False,
        reason=Reason.PROGRAM_NOT_APPROVED,
        rule="",
        policy_version=3,
        mode=Mode.EXPLICIT,
        weak=False,
        source=PartyRecord(address="198.18.0.2:40000", workload="shop/web"),
        destination=PartyRecord(address="198.18.0.3:5432"),
        process=ProcessRecord(),
        port=5432,
        transport=Transport.NONE,
        tunnel="",
        connection="c1",
        issuer="",
        bytes_sent=0,
        bytes_received=0,
        duration_s=0.0,
        ending=Ending.REFUSED,
    )


def test_every_key_is_always_there() -> None:
    shown = msgspec.json.decode(msgspec.json.encode(make_record()))
    assert set(shown) == set(DecisionRecord.__struct_fields__)
    assert set(shown["source"]) == set(PartyRecord.__struct_fields__)
    assert set(shown["process"]) == set(ProcessRecord.__struct_fields__)
    assert shown["reason"] == "program_not_approved"


def test_a_record_is_read_back_as_it_was_written() -> None:
    record = make_record()
    assert msgspec.json.decode(msgspec.json.encode(record), type=DecisionRecord) == record


def test_unknown_keys_and_values_are_refused() -> None:
    plain = msgspec.json.decode(msgspec.json.encode(make_record()))
    for change in ({"more": 1}, {"reason": "because"}, {"port": "5432"}, {"answer": "maybe"}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(msgspec.json.encode({**plain, **change}), type=DecisionRecord)
