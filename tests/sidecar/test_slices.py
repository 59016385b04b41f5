"""Slices: short work ends at once, long work lets others run in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from sidecar.slices import SLICE_S, run_in_slices


def steps(count: int, done: list[int], *, step_s: float = 0.0) -> Iterator[None]:
    for number in range(count):
        time.sleep(step_s)
        done.append(number)
        yield


@pytest.mark.parametrize("step_s", [0.0, 2 * SLICE_S])
def test_short_work_ends_at_once_even_without_a_loop_and_on_a_busy_machine(step_s: float) -> None:
    done: list[int] = []
    run_in_slices(steps(10, done, step_s=step_s))
    assert len(done) == 10


async def test_long_work_goes_on_in_later_iterations_of_the_loop() -> None:
    done: list[int] = []
    run_in_slices(steps(60, done, step_s=SLICE_S / 2))
    assert 0 < len(done) < 60
    between = 0
    while len(done) < 60:
        await asyncio.sleep(0)
        between += 1
    assert between > 2
    assert done == list(range(60))


async def test_what_goes_on_later_takes_no_more_than_its_slice_or_one_step() -> None:
    done: list[int] = []
    run_in_slices(steps(19, done, step_s=2 * SLICE_S))
    for count in (16, 17, 18, 19):
        assert len(done) == count
        await asyncio.sleep(0)
