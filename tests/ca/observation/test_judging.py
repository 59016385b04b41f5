"""Judging ends when nobody waits for it any more (``ca.observation.judging``)."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable

from ca.observation.judging import THREADS, AbandonedError, judge
from tests.ca.running import eventually


async def test_what_was_begun_ends_at_its_next_check_and_what_was_not_never_begins() -> None:
    begun, ended, late = threading.Semaphore(0), threading.Semaphore(0), threading.Event()

    def work(check: Callable[[], None]) -> None:
        begun.release()
        try:
            while True:
                check()
        except AbandonedError:
            ended.release()
            raise

    working = [asyncio.create_task(judge(work)) for _ in range(THREADS)]
    for _ in working:
        await asyncio.to_thread(begun.acquire)
    waiting = asyncio.create_task(judge(lambda _: late.set()))
    await asyncio.sleep(0)
    for task in (waiting, *working):
        task.cancel()
    for task in (waiting, *working):
        with contextlib.suppress(asyncio.CancelledError):
            await task
    for _ in working:
        await asyncio.to_thread(ended.acquire)
    assert await judge(lambda _: 7) == 7
    await eventually(lambda: not late.is_set())
