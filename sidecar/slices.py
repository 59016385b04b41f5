"""Long work on the event loop in short slices, so that connections are served in between. No I/O.

Belongs here: running steps for a bounded time. Doesn't: the steps. A thread would not do for what Python itself
computes: each time the loop comes back from a system call it would wait for the interpreter's lock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Final

# Two slices and a collection of garbage may come between two turns of a connection: 5 ms at most.
SLICE_S: Final = 0.001
_LEAST_STEPS: Final = 16  # Short work isn't put off because the machine was busy with something else.


def run_in_slices(steps: Iterator[None]) -> None:
    """Run steps until they end: ``SLICE_S`` or 16 steps now, the rest in later iterations of the running loop.

    Arguments:
        steps: each short; a generator that acts between its ``yield``s. Up to 16 end before this returns.
    """
    _run(steps, _LEAST_STEPS)


def _run(steps: Iterator[None], least: int) -> None:
    until = time.perf_counter() + SLICE_S
    for number, _ in enumerate(steps, 1):
        if number >= least and time.perf_counter() >= until:
            # What goes on is long work: from now on a slice ends when its time does.
            asyncio.get_running_loop().call_soon(_run, steps, 1)
            return
