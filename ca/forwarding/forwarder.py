"""A bounded queue of decisions towards one log store, and the task that empties it. I/O through its target.

Belongs here: sampling, bounds, repetition, what is lost and said. Doesn't: how a store is talked to (``otlp.py``,
``syslog.py``). Each replica forwards what it has stored itself. What waits when the CA ends is lost, and said: the
store has it.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog

from ca.metrics import Metrics
from shared.model.errors import TouchmarkError
from shared.model.formats.endpoint import Gravity, weigh
from shared.model.policy.decision import DecisionRecord

MAX_WAITING: Final = 20_000  # Of each kind: allowed connections never take a denial's place. 2 kB each.
MAX_BATCH: Final = 500
FIRST_DELAY_S: Final = 1.0
MAX_DELAY_S: Final = 60.0

_log = structlog.get_logger("touchmark.ca")


class LaterError(TouchmarkError):
    """The log store doesn't take anything now; the same batch is tried again.

    Attributes:
        after_s: the store's own wish; 0: none.
    """

    code = "forwarding_later"

    def __init__(self, message: str, *, after_s: float = 0.0) -> None:
        super().__init__(message)
        self.after_s = after_s


class RefusedBatchError(TouchmarkError):
    """The log store won't ever take this batch."""

    code = "forwarding_refused"


class LogStore(Protocol):
    """Where decisions are sent."""

    name: str

    async def send(self, records: Sequence[DecisionRecord]) -> int:
        """Send a batch within a deadline; return how many of it the store rejected.

        Raises:
            LaterError, RefusedBatchError.
        """

    async def close(self) -> None:
        """Let go of the connection."""


class Forwarder:
    """Sends decisions to one log store.

    Arguments:
        every: one of so many allowed connections is sent, 0: none. What is refused, or would be, always is.
        jitter: a number from 0 to 1, for the waits between tries.
    """

    def __init__(
        self, store: LogStore, *, every: int, metrics: Metrics, jitter: Callable[[], float] = random.random
    ) -> None:
        self._store = store
        self._every = every
        self._jitter = jitter
        self._grave: deque[DecisionRecord] = deque()
        self._allowed: deque[DecisionRecord] = deque()
        self._seen = 0
        self._arrived = asyncio.Event()
        self._fault = ""
        self._sent_total = metrics.forwarded.labels(target=store.name)
        self._lost_total = metrics.forwarding_lost.labels(target=store.name)
        self._waiting_gauge = metrics.forwarding_waiting.labels(target=store.name)
        self._up_gauge = metrics.forwarding_up.labels(target=store.name)

    @property
    def waiting(self) -> int:
        """How many records wait."""
        return len(self._grave) + len(self._allowed)

    def offer(self, records: Sequence[DecisionRecord]) -> None:
        """Take records that are stored; what has no room is counted as lost."""
        for record in records:
            if weigh(record) is Gravity.ALLOWED:
                self._seen += 1
                if not self._every or self._seen % self._every:
                    continue
                queue = self._allowed
            else:
                queue = self._grave
            if len(queue) < MAX_WAITING:
                queue.append(record)
            else:
                self._lost_total.inc()
                self._say("the queue is full")
        self._waiting_gauge.set(self.waiting)
        self._arrived.set()

    async def run(self) -> None:
        """Send what waits, for ever."""
        try:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                while batch := self._take():
                    await self._send(batch)
                    self._waiting_gauge.set(self.waiting)
        finally:
            if self.waiting:
                _log.warning("forwarding_unfinished", target=self._store.name, waiting=self.waiting)
            await self._store.close()

    def _take(self) -> list[DecisionRecord]:
        batch = [self._grave.popleft() for _ in range(min(len(self._grave), MAX_BATCH))]
        return batch + [self._allowed.popleft() for _ in range(min(len(self._allowed), MAX_BATCH - len(batch)))]

    async def _send(self, batch: list[DecisionRecord]) -> None:
        delay_s = FIRST_DELAY_S
        while True:
            try:
                rejected = await self._store.send(batch)
            except LaterError as error:
                self._say(error.message)
                wait_s = max(error.after_s, delay_s * (0.5 + self._jitter() / 2))
                await asyncio.sleep(min(wait_s, MAX_DELAY_S))
                delay_s = min(delay_s * 2, MAX_DELAY_S)
                continue
            except RefusedBatchError as error:
                self._lost_total.inc(len(batch))
                self._say(error.message)
                return
            self._sent_total.inc(len(batch) - rejected)
            if rejected:
                self._lost_total.inc(rejected)
                self._say(f"{rejected} records of a batch were rejected")
            else:
                self._say("")
            return

    def _say(self, fault: str) -> None:
        """Log a fault when it begins or becomes another one, and its end."""
        self._up_gauge.set(not fault)
        if fault and fault != self._fault:
            _log.warning("forwarding_failed", target=self._store.name, message=fault)
        elif self._fault and not fault:
            _log.info("forwarding_recovered", target=self._store.name)
        self._fault = fault
