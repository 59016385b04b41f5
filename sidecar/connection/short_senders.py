"""The ports towards which programs were gone before they could be looked at.

Such a program sends something and exits at once, and will do so again. Belongs here: remembering its destination's
port, bounded. Doesn't: what is done about it (``sidecar/runtime/held_connects.py``).

Nobody gains anything by having a port remembered: a look more before the connection loosens nothing that the one on
accept asks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from shared.model.policy.reasons import Reason

MAX_PORTS: Final = 256
REMEMBERED_S: Final = 86_400.0
GONE: Final = frozenset({Reason.SENDER_GONE, Reason.NO_OWNER, Reason.PROCESS_VANISHED})


class ShortSenders:
    """Destination ports of programs that were gone, each for a day.

    Arguments:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[int, float] = {}  # The one that was noted last is the last.
        self._tell: Callable[[], None] | None = None

    def on_note(self, tell: Callable[[], None] | None) -> None:
        """Have ``tell`` called whenever a port is noted; None: nobody is told."""
        self._tell = tell

    def note(self, port: int) -> None:
        """A program that dialled this port was gone."""
        self._until.pop(port, None)
        if len(self._until) >= MAX_PORTS:
            del self._until[next(iter(self._until))]
        self._until[port] = self._clock() + REMEMBERED_S
        if self._tell is not None:
            self._tell()

    def is_dialled(self, port: int) -> bool:
        """Whether such a program dialled this port lately."""
        return self._until.get(port, 0.0) > self._clock()

    def find_end(self) -> float | None:
        """Return after how many seconds the last one is forgotten; None where there is none."""
        last = max(self._until.values(), default=0.0) - self._clock()
        return last if last > 0 else None
