"""The record of a decision: constant keys, strict values."""

from __future__ import annotations

import msgspec
import pytest

from shared.model.policy.decision import (
    DecisionRecord,
    PartyRecord,
    ProcessRecord,
)
from tests.shared.model.policy.records import make_record


def test_every_key_is_always_there_but_those_that_older_releases_refuse() -> None:
    shown = msgspec.json.decode(msgspec.json.encode(make_record()))
    assert set(shown) == set(DecisionRecord.__struct_fields__) - {"service", "has_started"}
    assert set(shown["source"]) == set(PartyRecord.__struct_fields__) - {"hosts"}
    assert set(shown["process"]) == set(ProcessRecord.__struct_fields__) - {"code", "origin"}
    assert shown["reason"] == "program_not_approved"


def test_a_record_is_read_back_as_it_was_written() -> None:
    record = make_record()
    assert msgspec.json.decode(msgspec.json.encode(record), type=DecisionRecord) == record


def test_unknown_keys_and_values_are_refused() -> None:
    plain = msgspec.json.decode(msgspec.json.encode(make_record()))
    for change in ({"more": 1}, {"reason": "because"}, {"port": "5432"}, {"answer": "maybe"}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(msgspec.json.encode({**plain, **change}), type=DecisionRecord)
