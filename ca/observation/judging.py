"""Threads that judge what was seen: few, apart from those that the CA works with, given up with the question. No I/O.

Belongs here: where such work runs. Doesn't: the work, which is pure and asks between two steps whether to go on.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

# More would only take the interpreter's lock from each other, and from what issues certificates.
THREADS: Final = 2
_T = TypeVar("_T")
_EXECUTOR: Final = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="judging")


class AbandonedError(Exception):
    """Nobody waits for the answer any more."""


async def judge(work: Callable[[Callable[[], None]], _T]) -> _T:
    """Run pure work in a thread. Cancelled, it ends at its next check, or never begins.

    Arguments:
        work: gets what it calls between two steps, which raises once the answer isn't wanted.
    """
    is_abandoned = threading.Event()

    def check() -> None:
        if is_abandoned.is_set():
            raise AbandonedError

    working = asyncio.get_running_loop().run_in_executor(_EXECUTOR, work, check)
    try:
        return await working
    except asyncio.CancelledError:
        is_abandoned.set()
        raise
