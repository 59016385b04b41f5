"""Ties tests to reason codes: a test that ``proves`` a code must really have seen it in a record.

``pytest.mark.proves(Reason.X)`` claims it, and so does ``fixes``; ``witness`` notes what records said during the test;
``tests/e2e/conftest`` compares both after each test, and ``test_reasons`` compares all claims with the enumeration.
"""

from __future__ import annotations

import pytest

from shared.model.policy.reasons import Reason

_seen: set[Reason] = set()


def witness(reason: Reason) -> None:
    """Note that a record with this reason was read."""
    _seen.add(reason)


def forget() -> None:
    """A test begins."""
    _seen.clear()


def find_unproven(item: pytest.Item) -> set[Reason]:
    """Return what the test claims to prove and hasn't seen."""
    claimed = {reason for name in ("proves", "fixes") for mark in item.iter_markers(name) for reason in mark.args}
    return claimed - _seen
