"""Reasons: each has a cause and a fix."""

from __future__ import annotations

import re

from shared.model.policy.reasons import EXPLANATIONS, Reason


def test_each_reason_is_explained_and_nothing_else() -> None:
    assert set(EXPLANATIONS) == set(Reason)


def test_codes_are_stable_words() -> None:
    assert all(
        re.fullmatch(r"[a-z]+(_[a-z]+)*", reason.value) and reason.value == reason.name.lower() for reason in Reason
    )


def test_causes_and_fixes_are_sentences() -> None:
    for reason, explanation in EXPLANATIONS.items():
        for text in (explanation.cause, explanation.fix):
            assert text[0].isupper() and text.rstrip("`").endswith("."), (reason, text)
