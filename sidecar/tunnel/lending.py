"""Lends established connections to a thread that moves their bytes without Python; one for each event loop.

Belongs here: the thread's life, and which stay is whose. Doesn't: the thread (``sidecar/native/mover.c``), when a
connection is lent and what follows when it comes back (``native_tunnel.py``).
"""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary, WeakSet

from sidecar.native.engine import start_mover

if TYPE_CHECKING:
    from sidecar.native._loop import Loop, Mover


# The thread moves nothing for an event loop that hasn't said for so long that it lives: its checks of policies, holders
# and ages stand still then. It says so ...
_ALLOWED_NS: Final = 10_000_000_000
# ... while anything is lent.
_PERIOD_S: Final = 1.0


class Lending:
    """What one event loop has lent.

    Arguments:
        native: whose functions the thread calls.

    Attributes:
        mover: the thread.

    Raises:
        OSError: the thread can't be started.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, native: Loop) -> None:
        self.mover: Mover = start_mover(native)
        self._owners: dict[int, Callable[[], None]] = {}
        # No handle is kept: it would know the loop, which then lived for ever, and its thread with it.
        self._is_timed = False
        loop.add_reader(self.mover.fileno(), self._collect)
        _live.add(self)

    def note(self, number: int, on_returned: Callable[[], None]) -> None:
        """Call back when this stay ends by itself; the callback recalls."""
        self._owners[number] = on_returned

    def allow(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let the thread move bytes while this event loop lives; called before anything is lent."""
        if not self._is_timed:
            self._renew(loop)

    def _renew(self, loop: asyncio.AbstractEventLoop) -> None:
        self.mover.allow(_ALLOWED_NS)
        self._is_timed = True
        loop.call_later(_PERIOD_S, self._go_on, loop)

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_timed = False
        if self._owners:
            self._renew(loop)

    def forget(self, number: int) -> None:
        """Its owner recalls it."""
        del self._owners[number]

    def _collect(self) -> None:
        for number in self.mover.collect():
            # A callback before this one may have recalled it already.
            on_returned = self._owners.get(number)
            if on_returned is not None:
                on_returned()


_live: WeakSet[Lending] = WeakSet()
_lendings: WeakKeyDictionary[asyncio.AbstractEventLoop, Lending] = WeakKeyDictionary()


def lending_of(loop: asyncio.AbstractEventLoop, native: Loop) -> Lending:
    """Return the loop's lending, made at the first call.

    Raises:
        OSError: its thread can't be started.
    """
    lending = _lendings.get(loop)
    if lending is None:
        lending = _lendings[loop] = Lending(loop, native)
    return lending


@atexit.register
def _stop_all() -> None:
    """The thread must not use a TLS object that the interpreter's end frees."""
    for lending in tuple(_live):
        with suppress(OSError):
            lending.mover.stop()
