"""Waits for our own work end when that stands still."""

from __future__ import annotations

import asyncio
import gc

import pytest

from shared.runtime import patience as module
from shared.runtime.patience import Patience


async def test_a_wait_ends_when_nothing_finishes() -> None:
    with pytest.raises(TimeoutError):
        async with Patience(0.01).wait():
            await asyncio.Event().wait()


async def test_a_wait_goes_on_while_anything_finishes_and_ends_with_what_it_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a clock that only its steps move on: a busy machine doesn't make them longer."""
    patience, finished, now = Patience(60), asyncio.Event(), asyncio.get_running_loop().time()

    async def work() -> None:
        nonlocal now
        for _ in range(5):  # Longer than the patience altogether, each step shorter.
            now += 40
            await asyncio.sleep(0)
            patience.note_progress()
            await asyncio.sleep(0)
        finished.set()

    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
    working = asyncio.ensure_future(work())
    async with patience.wait():
        await finished.wait()
    await working


async def test_what_hangs_isnt_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 2)
    patience = Patience(0.05)

    async def work() -> None:
        while True:
            await asyncio.sleep(0.001)
            patience.note_progress()

    working = asyncio.ensure_future(work())
    with pytest.raises(TimeoutError):
        async with patience.wait():
            await asyncio.Event().wait()
    working.cancel()


async def test_a_cancelled_wait_is_cancelled_and_an_error_passes() -> None:
    patience = Patience(60)
    with pytest.raises(KeyError):
        async with patience.wait():
            raise KeyError

    async def wait() -> None:
        async with patience.wait():
            await asyncio.Event().wait()

    waiting = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_nothing_is_left_for_the_collector() -> None:
    """It bounds each attestation."""
    patience = Patience(600)
    gc.collect()
    gc.disable()
    try:
        async with patience.wait():
            pass
        assert gc.collect() == 0
    finally:
        gc.enable()
