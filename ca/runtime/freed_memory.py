"""What streams leave that have ended: the kernel gets it back, once there is much of it. I/O: a thread.

Belongs here: when. Doesn't: how (``shared/runtime/interpreter.py``), or when a stream has ended
(``ca/api/stream/endpoint.py``).

Thousands of streams that end leave a heap of holes. Their pages count as used until others take them, and what takes
them first are the 256 KiB that each new TLS connection gets to read into and hardly touches: the CA grew by 12 to 17
KiB a stream each time that all its sidecars came again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from shared.runtime.interpreter import give_back_free_pages
from shared.runtime.tasks import Tasks

# What they leave in the heap is about 6 MiB.
MANY: Final = 128
# They mostly end together, and each is freed a moment after its end.
PAUSE_S: Final = 1.0


class FreedMemory:
    """Counts ended streams.

    Arguments:
        tasks: which end with the CA.
        give_back: does it, in a thread.
    """

    def __init__(
        self, tasks: Tasks, *, give_back: Callable[[], object] = give_back_free_pages, pause_s: float = PAUSE_S
    ) -> None:
        self._tasks = tasks
        self._give_back = give_back
        self._pause_s = pause_s
        self._ended = 0
        self._is_at_work = False

    def note_ended(self) -> None:
        """Count one."""
        self._ended += 1
        if self._ended >= MANY and not self._is_at_work:
            self._is_at_work = True
            self._tasks.spawn(self._work(), name="give-back-memory")

    async def _work(self) -> None:
        try:
            while self._ended >= MANY:
                await asyncio.sleep(self._pause_s)
                self._ended = 0
                await asyncio.to_thread(self._give_back)
        finally:
            self._is_at_work = False
