"""The record of a decision: constant keys, strict values."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shared.model.policy.decision import (
    Answer,
    DecisionRecord,
    DraftChange,
    DraftVerdict,
    PartyRecord,
    ProcessRecord,
    compare_draft,
    name_draft,
)
from shared.model.policy.reasons import Reason
from tests.shared.model.policy.records import make_record


def test_every_key_is_always_there_but_those_that_older_releases_refuse() -> None:
    shown = msgspec.json.decode(msgspec.json.encode(make_record()))
    assert set(shown) == set(DecisionRecord.__struct_fields__) - {"service", "has_started", "draft"}
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


@pytest.mark.parametrize(
    ("happened", "drafted", "change"),
    [
        ("allow", "allow", "same"),
        ("allow", "mark", "denied"),
        ("allow", "deny", "denied"),
        ("mark", "deny", "denied"),
        ("mark", "allow", "allowed"),
        ("deny", "mark", "allowed"),
        ("deny", "deny", "same"),
    ],
)
def test_a_draft_is_compared_by_what_becomes_of_the_connection(happened: str, drafted: str, change: str) -> None:
    def said(word: str) -> dict[str, Any]:
        return {"answer": Answer.DENY if word == "deny" else Answer.ALLOW, "would_deny": word == "mark"}

    verdict = DraftVerdict(reason=Reason.NO_RULE, rule="", drafts=(name_draft("shop", 3),), **said(drafted))
    assert compare_draft(make_record(draft=verdict, **said(happened))) is DraftChange(change)
    assert verdict.drafts == ("shop@3",)
    assert compare_draft(make_record(**said(happened))) is DraftChange.NONE
