"""Background tasks: held, named, ended, and never failing unseen."""

from __future__ import annotations

import asyncio

from shared.runtime.tasks import Tasks


async def test_a_failure_is_told_with_the_tasks_name() -> None:
    failures: list[tuple[str, str]] = []
    tasks = Tasks(lambda name, error: failures.append((name, str(error))))

    async def fail() -> None:
        raise ValueError("broken")

    tasks.spawn(fail(), name="doomed")
    assert await tasks.drain(timeout_s=30) == 0
    assert failures == [("doomed", "broken")]


async def test_close_cancels_and_a_cancellation_is_no_failure() -> None:
    failures: list[str] = []
    tasks = Tasks(lambda name, _: failures.append(name))

    async def wait() -> None:
        await asyncio.Event().wait()

    tasks.spawn(wait(), name="waiting")
    assert await tasks.drain(timeout_s=0.01) == 1
    assert await tasks.close(timeout_s=30) == 0
    assert (len(tasks), failures) == (0, [])
