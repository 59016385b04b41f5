"""Ends a sidecar whose event loop hangs: what hangs would otherwise hang the application with it, for ever.

Belongs here: noticing, and the end. Doesn't: what restarts the sidecar (the kubelet, an init system).

A thread counts its own short sleeps in which the loop hasn't ticked. It looks at no clock: when the process or the
machine was stopped for an hour, the thread was, too, and has counted one sleep. What it can't see is C code that keeps
the interpreter's lock: then this thread stands still as well, and only a liveness probe from outside helps.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import threading
import time
from collections.abc import Callable
from typing import Final

import msgspec

EXIT_CODE: Final = 70  # EX_SOFTWARE of sysexits.h(3head).
PERIOD_S: Final = 0.5


class Watchdog:
    """Watches one event loop from ``start`` to ``stop``.

    Arguments:
        hung_after_s: how long the loop may stand still; infinite: it only measures the loop's lag.
        descriptor: where the stacks of all threads are written.
        end: ends the process with a code; doesn't return.
        period_s: how often the loop ticks and the thread looks.
    """

    def __init__(
        self,
        *,
        hung_after_s: float,
        descriptor: int = 2,
        end: Callable[[int], object] = os._exit,
        period_s: float = PERIOD_S,
    ) -> None:
        self._strikes_allowed = max(2.0, hung_after_s / period_s)
        self._hung_after_s = hung_after_s
        self._descriptor = descriptor
        self._end = end
        self._period_s = period_s
        self._ticks = 0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self.max_lag_s = 0.0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin, from within the loop."""
        self._due = loop.time()
        self._tick(loop)
        self._thread.start()

    def stop(self) -> None:
        """End the watch: the loop may end."""
        self._stopped.set()
        if self._timer is not None:
            self._timer.cancel()

    def take_max_lag_s(self) -> float:
        """Return by how much a tick came late at worst since the last call."""
        lag_s, self.max_lag_s = self.max_lag_s, 0.0
        return lag_s

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._ticks += 1
        self.max_lag_s = max(self.max_lag_s, loop.time() - self._due)
        self._due = loop.time() + self._period_s
        self._timer = loop.call_at(self._due, self._tick, loop)

    def _watch(self) -> None:
        seen, strikes = self._ticks, 0
        while not self._stopped.wait(self._period_s):
            seen, strikes = (seen, strikes + 1) if self._ticks == seen else (self._ticks, 0)
            if strikes >= self._strikes_allowed:
                self._report()
                self._end(EXIT_CODE)
                return

    def _report(self) -> None:
        event = {"time": round(time.time(), 3), "event": "loop_hung", "seconds": self._hung_after_s}
        try:
            # The sink of events may hang as well: straight to the descriptor, and never waiting for its reader.
            os.set_blocking(self._descriptor, False)
            os.write(self._descriptor, msgspec.json.encode(event) + b"\n")
            faulthandler.dump_traceback(self._descriptor, all_threads=True)
        except OSError:
            pass  # Nothing reads it. The end comes all the same.
