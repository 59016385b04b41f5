"""What a soak's failures are explained by, and what fails the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from bench.soak.judgement import (
    AFTER_POLICY_S,
    KEPT_DESCRIPTORS,
    WARM_S,
    Failure,
    Kept,
    Sample,
    Window,
    find_faults,
    find_unexplained,
    read_failures,
)

DENIED = Window(what="denied", began=100, ended=110, kinds=frozenset({"flip"}), after_s=AFTER_POLICY_S)
KILLED = Window(what="killed", began=200, ended=205, after_s=8)
KEPT = Kept(connected=10, unknown=1, recorded=10, lost=0, events={"sidecar_ready": 1}, reasons={"same_group": 10})


def failure(kind: str, began: float, ended: float) -> Failure:
    return Failure(side="left", kind=kind, began=began, ended=ended, error="reset")


def samples(memory: Sequence[int], descriptors: Sequence[int], *, every_s: float = 10) -> list[Sample]:
    return [
        Sample(at=every_s * number, memory_bytes=size << 20, descriptors=count)
        for number, (size, count) in enumerate(zip(memory, descriptors, strict=True))
    ]


FLAT = samples([60] * 16, [2400] * 16)


@pytest.mark.parametrize(
    ("found", "is_explained"),
    [
        (failure("flip", 105, 105.1), True),
        (failure("flip", 111, 112), True),
        (failure("flip", 120, 121), False),
        (failure("short", 105, 106), False),
        (failure("idle", 150, 201), True),
        (failure("short", 190, 199), False),
        (failure("short", 212, 213), True),
        (failure("short", 214, 215), False),
    ],
)
def test_only_what_was_broken_then_explains_a_failure(found: Failure, is_explained: bool) -> None:
    assert (find_unexplained([found], [DENIED, KILLED]) == []) is is_explained


def test_a_run_without_losses_faults_and_growth_holds() -> None:
    assert find_faults(KEPT, [], FLAT) == []
    assert find_faults(replace(KEPT, recorded=11), [], FLAT) == [], "one program couldn't say"


@pytest.mark.parametrize(
    ("kept", "word"),
    [
        (replace(KEPT, lost=2), "2 records were lost"),
        (replace(KEPT, lost=-1), "-1 records"),  # It never said that it had ended.
        (replace(KEPT, recorded=9), "10 connections, and 9 records"),
        (replace(KEPT, recorded=12), "and 12 records"),
        (replace(KEPT, events={"task_failed": 1}), "event task_failed: 1"),
        (replace(KEPT, reasons={"internal_error": 3}), "reason internal_error: 3"),
    ],
)
def test_each_loss_and_each_fault_fails_the_run(kept: Kept, word: str) -> None:
    assert any(word in fault for fault in find_faults(kept, [], FLAT))


def test_what_nothing_explains_fails_the_run() -> None:
    [fault, *_, last] = find_faults(KEPT, [failure("bulk", 1, 2)] * 25, FLAT)
    assert fault == "unexplained: left bulk reset"
    assert last == "and 5 more unexplained failures"


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (samples([60] * 8 + [90] * 8, [2400] * 16), "memory grew from 60 to 90 MiB"),
        (samples([60] * 16, [5000] * 8 + [5100] * 8), "descriptors grew from 5000 to 5100"),
        (samples([60] * 8 + [90] * 8, [2400] * 16, every_s=WARM_S / 20), ""),
        (samples([60] * 8 + [300] * 8, [2400] * 16, every_s=1), "memory grew"),
        (samples([60] * 16, [40] * 8 + [KEPT_DESCRIPTORS] * 8), ""),
        (FLAT[:3], "too few samples"),
    ],
)
def test_growth_fails_the_run(found: list[Sample], word: str) -> None:
    faults = find_faults(KEPT, [], found)
    assert faults == [] if not word else any(word in fault for fault in faults)


def test_a_sides_failures_are_read_without_its_sums() -> None:
    lines: list[dict[str, Any]] = [{"kind": "bulk", "began": 1.0, "ended": 2.0, "error": "reset"}, {"sums": {}}]
    assert read_failures("left", lines) == [failure("bulk", 1, 2)]
