"""The one guarded way to start a task that outlives its caller.

Belongs here: spawning, keeping and ending background tasks. Doesn't: work that its caller awaits (a ``TaskGroup``).
An asyncio task without a reference can be collected while it runs, and its failure can go unnoticed: both are ruled
out here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

OnFailure = Callable[[str, BaseException], None]


class Tasks:
    """Running background tasks, each with a name.

    Arguments:
        on_failure: called with the task's name and its exception when it fails; never for a cancellation.
    """

    def __init__(self, on_failure: OnFailure) -> None:
        self._on_failure = on_failure
        self._running: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Start ``work`` and hold it until it ends."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._finish)
        return task

    async def close(self, *, timeout_s: float) -> int:
        """Cancel what still runs and wait for it; return how many tasks didn't end in time."""
        for task in self._running:
            task.cancel()
        if not self._running:
            return 0
        _, pending = await asyncio.wait(self._running, timeout=timeout_s)
        return len(pending)

    async def drain(self, *, timeout_s: float) -> int:
        """Wait for the tasks to finish; return how many still run after ``timeout_s``."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while self._running and (left := deadline - loop.time()) > 0:
            await asyncio.wait(self._running, timeout=left)
        return len(self._running)

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_failure(task.get_name(), error)
