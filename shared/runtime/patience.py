"""Waits for a component's own work: refused when that work stands still, not when there is much of it.

Belongs here: the deadline of such a wait. Doesn't: deadlines of peers, who are given a fixed time. No I/O.

A burst of thousands of connections waits for the CPU that attests them and computes their handshakes. A fixed deadline
would refuse the last ones for no fault of theirs, after having spent as much on them as on the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

# A wait ends after so many times the patience, whatever else makes progress: nothing that hangs is kept for ever.
_MOST: Final = 12


class Patience:
    """The waits for one kind of work. Belongs to one event loop.

    Arguments:
        seconds: how long nothing of the work may finish.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._progressed = 0.0

    def for_other_work(self) -> Patience:
        """Return the same patience with work that doesn't make progress by this one's."""
        return Patience(self._seconds)

    def note_progress(self) -> None:
        """A piece of the work has finished, no matter who waited for it."""
        self._progressed = asyncio.get_running_loop().time()

    @asynccontextmanager
    async def wait(self) -> AsyncIterator[None]:
        """Bound the block.

        Raises:
            TimeoutError: nothing has finished for the patience since it began, or it took twelve times as long.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        timer: asyncio.TimerHandle | None = None
        async with asyncio.timeout(None) as deadline:
            # Given to itself: referring to itself it would be garbage in a circle, for each connection.
            def look(again: Callable[[Any], None]) -> None:
                nonlocal timer
                now = loop.time()
                due = min(max(began, self._progressed) + self._seconds, began + self._seconds * _MOST)
                if due <= now:
                    deadline.reschedule(now)
                else:
                    timer = loop.call_at(due, again, again)

            timer = loop.call_at(began + self._seconds, look, look)
            try:
                yield
            finally:
                timer.cancel()
