"""A sidecar gets as many certificates as it can use, and no more (``ca.allowance``)."""

from __future__ import annotations

from pathlib import Path

import pytest

from ca import allowance
from ca.allowance import (
    BURST,
    STREAMS,
    Allowance,
    AllowanceUsedError,
    LineAllowance,
    StreamAllowance,
    StreamsUsedError,
)
from shared.model.policy.reasons import Reason
from tests.ca.founded import NOW, join, make_csr, opened


def test_a_burst_and_as_many_again_in_each_lifetime_and_others_are_not_concerned() -> None:
    counted = Allowance(1_000.0)
    for _ in range(BURST):
        counted.take("evil", now=NOW)
    with pytest.raises(AllowanceUsedError, match="evil") as caught:
        counted.take("evil", now=NOW)
    assert caught.value.reason == Reason.OVERLOADED
    counted.take("good", now=NOW)
    later = 0
    for second in range(1_000):
        while True:
            try:
                counted.take("evil", now=NOW + 1 + second)
            except AllowanceUsedError:
                break
            later += 1
    assert BURST - 10 <= later <= BURST
    with pytest.raises(AllowanceUsedError):  # A clock that is set back gives nothing.
        counted.take("evil", now=NOW)


def test_a_clock_that_was_ahead_takes_nothing_from_anybody_once_it_is_right_again() -> None:
    counted = Allowance(1_000.0, burst=10)
    assert counted.take_some("a", 10, now=NOW + 86_400.0) == 10
    assert counted.take_some("a", 10, now=NOW) == 0
    assert counted.take_some("a", 10, now=NOW + 500.0) == 5


def test_one_that_tries_again_as_sidecars_do_is_never_refused_a_stream() -> None:
    now = 0.0
    counted = StreamAllowance(lambda: now)
    for number in range(500):
        counted.take("a")
        now += 0.5 if number > 5 else 0.1
    with pytest.raises(StreamsUsedError, match="too often"):
        for _ in range(STREAMS + 1):
            counted.take("a")
    counted.take("b")


def test_so_many_sidecars_are_remembered_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowance, "_MAX_SIDECARS", 2)
    monkeypatch.setattr(allowance, "BURST", 1)
    counted = Allowance(1_000.0)
    for name in ("one", "two", "three", "one"):  # The first one is forgotten by then.
        counted.take(name, now=NOW)
    with pytest.raises(AllowanceUsedError):
        counted.take("three", now=NOW)


async def test_what_is_asked_for_beyond_it_is_neither_signed_nor_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allowance, "BURST", 2)
    async with opened(tmp_path / "d") as core:
        grant = await join(core, "evil")
        for _ in range(2):
            await core.issuance.issue_sidecar(grant, make_csr(), NOW)
        with pytest.raises(AllowanceUsedError):
            await core.issuance.issue_sidecar(grant, make_csr(), NOW)
        assert len(await core.store.ledger.list_lines()) == 2


def test_the_log_lines_that_a_sidecar_causes_are_bounded_each_for_itself() -> None:
    """Each refused request was a line: two megabytes within seconds."""
    now = 1000.0
    lines = LineAllowance(lambda: now)
    assert [lines.take("evil") for _ in range(61)] == [True] * 60 + [False]
    assert lines.take("good")
    now += 2.0
    assert [lines.take("evil") for _ in range(3)] == [True, True, False]


def test_of_what_is_wanted_as_many_are_taken_as_are_left() -> None:
    counted = Allowance(100.0, burst=10)
    assert [counted.take_some("a", 6, now=NOW), counted.take_some("a", 6, now=NOW)] == [6, 4]
    assert counted.take_some("a", 6, now=NOW + 35) == 3
