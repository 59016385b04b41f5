"""The facts have the names that scripts rely on, and what contradicts a claim is said."""

from __future__ import annotations

import msgspec

from cli.demo.facts import Facts

GOOD = {
    "capture": "listeners",
    "approved_permissive": True,
    "intruder_permissive_would_deny": True,
    "approved_explicit": True,
    "intruder_explicit_refused": True,
    "intruder_reason": "program_not_approved",
    "outsider_refused": True,
    "plaintext_on_wire": None,
    "rotation_requests": 12,
    "rotation_failures": 0,
    "decisions": 40,
}


def test_the_object_has_exactly_these_keys_and_unknown_is_null() -> None:
    assert msgspec.to_builtins(Facts()) == dict.fromkeys(GOOD)


def test_a_run_that_can_t_watch_packets_contradicts_nothing() -> None:
    assert list(Facts(**GOOD).find_contradictions()) == []  # type: ignore[arg-type]  # Values of several types.


def test_each_broken_claim_is_named() -> None:
    broken = {
        "approved_explicit": False,
        "intruder_reason": None,
        "plaintext_on_wire": True,
        "rotation_failures": 1,
        "outsider_refused": None,
    }
    for name, value in broken.items():
        assert len(list(Facts(**{**GOOD, name: value}).find_contradictions())) == 1, name  # type: ignore[arg-type]  # As above.
