"""Lends established connections to threads that move their bytes without Python; each event loop has its own.

Belongs here: the threads' life, which of them gets a turn, and which stay is whose. Doesn't: a thread
(``sidecar/native/mover.c``), when a connection is lent and what follows when it comes back (``native_tunnel.py``), how
many threads there may be (``sidecar/native/engine.py``). A thread is started when every other one has a turn.
"""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary, WeakSet

from sidecar.native.engine import current_workers, start_mover

if TYPE_CHECKING:
    from sidecar.native._loop import Loop, Mover


# A thread moves nothing for an event loop that hasn't said for so long that it lives: its checks of policies, holders
# and ages stand still then. It says so ...
_ALLOWED_NS: Final = 10_000_000_000
# ... while anything is lent.
_PERIOD_S: Final = 1.0


class Worker:
    """One thread, and whose the stays are that it has."""

    __slots__ = ("__weakref__", "_owners", "mover")

    def __init__(self, mover: Mover) -> None:
        self.mover = mover
        self._owners: dict[int, Callable[[], None]] = {}

    @property
    def turns(self) -> int:
        """How many turns it has."""
        return len(self._owners)

    def note(self, number: int, on_returned: Callable[[], None]) -> None:
        """Call back when this stay ends by itself; the callback recalls."""
        self._owners[number] = on_returned

    def forget(self, number: int) -> None:
        """Its owner recalls it."""
        del self._owners[number]

    def collect(self) -> None:
        """Tell the owners of what came back by itself."""
        for number in self.mover.collect():
            # A callback before this one may have recalled it already.
            on_returned = self._owners.get(number)
            if on_returned is not None:
                on_returned()


class Lending:
    """What one event loop has lent.

    Arguments:
        native: whose functions the threads call.

    Attributes:
        workers: the threads that have been started.

    Raises:
        OSError: the first thread can't be started.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, native: Loop) -> None:
        self._native = native
        self._most = max(1, current_workers())
        self.workers: list[Worker] = []
        # No handle is kept: it would know the loop, which then lived for ever, and its threads with it.
        self._is_timed = False
        self._start_worker(loop)
        _live.add(self)

    def _start_worker(self, loop: asyncio.AbstractEventLoop) -> Worker:
        worker = Worker(start_mover(self._native))
        # This event loop lives, and may have said so to the others a moment ago.
        worker.mover.allow(_ALLOWED_NS)
        loop.add_reader(worker.mover.fileno(), worker.collect)
        self.workers.append(worker)
        return worker

    def find_worker(self, loop: asyncio.AbstractEventLoop) -> Worker:
        """Return the thread for one more turn: one without any, a new one, or that with the fewest."""
        worker = min(self.workers, key=lambda each: each.turns)
        if worker.turns and len(self.workers) < self._most:
            with suppress(OSError):  # No thread or no descriptor is left: those that run go on.
                worker = self._start_worker(loop)
        return worker

    def allow(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let the threads move bytes while this event loop lives; called before anything is lent."""
        if not self._is_timed:
            self._renew(loop)

    def _renew(self, loop: asyncio.AbstractEventLoop) -> None:
        for worker in self.workers:
            worker.mover.allow(_ALLOWED_NS)
        self._is_timed = True
        loop.call_later(_PERIOD_S, self._go_on, loop)

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_timed = False
        if any(worker.turns for worker in self.workers):
            self._renew(loop)


_live: WeakSet[Lending] = WeakSet()
_lendings: WeakKeyDictionary[asyncio.AbstractEventLoop, Lending] = WeakKeyDictionary()


def lending_of(loop: asyncio.AbstractEventLoop, native: Loop) -> Lending:
    """Return the loop's lending, made at the first call.

    Raises:
        OSError: its first thread can't be started.
    """
    lending = _lendings.get(loop)
    if lending is None:
        lending = _lendings[loop] = Lending(loop, native)
    return lending


def count_turns(loop: asyncio.AbstractEventLoop) -> list[int]:
    """Return how many turns each thread of this loop has; empty while none was started."""
    lending = _lendings.get(loop)
    return [] if lending is None else [worker.turns for worker in lending.workers]


@atexit.register
def _stop_all() -> None:
    """The threads must not use a TLS object that the interpreter's end frees."""
    for lending in tuple(_live):
        for worker in lending.workers:
            with suppress(OSError):
                worker.mover.stop()
