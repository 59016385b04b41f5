"""Bounded queues towards one store of another house, and the task that empties them. I/O through its target.

Belongs here: bounds, repetition, what is lost and said. Doesn't: what is offered (``forwarder.py``, ``spans.py``), or
how a store is talked to (``otlp.py``, ``syslog.py``). What waits when the CA ends is lost, and said.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Generic, Protocol, TypeVar

import structlog

from ca.metrics import Metrics
from shared.model.errors import TouchmarkError

MAX_WAITING: Final = 20_000  # Of each queue. 2 kB each.
MAX_BATCH: Final = 500
FIRST_DELAY_S: Final = 1.0
MAX_DELAY_S: Final = 60.0

_T = TypeVar("_T")
_In = TypeVar("_In", contravariant=True)
_log = structlog.get_logger("touchmark.ca")


class LaterError(TouchmarkError):
    """The store doesn't take anything now; the same batch is tried again.

    Attributes:
        after_s: the store's own wish; 0: none.
    """

    code = "forwarding_later"

    def __init__(self, message: str, *, after_s: float = 0.0) -> None:
        super().__init__(message)
        self.after_s = after_s


class RefusedBatchError(TouchmarkError):
    """The store won't ever take this batch."""

    code = "forwarding_refused"


class Destination(Protocol[_In]):
    """Where records are sent."""

    @property
    def name(self) -> str:
        """What metrics and logs call it."""
        ...

    async def send(self, records: Sequence[_In]) -> int:
        """Send a batch within a deadline; return how many of it the store rejected.

        Raises:
            LaterError, RefusedBatchError.
        """
        ...

    async def close(self) -> None:
        """Let go of the connection."""
        ...


class Courier(Generic[_T]):
    """Sends what is put into its queues to one destination.

    Arguments:
        queues: how many; the first is emptied first, and none takes another's place.
        jitter: a number from 0 to 1, for the waits between tries.
    """

    def __init__(
        self,
        store: Destination[_T],
        *,
        queues: int,
        metrics: Metrics,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._jitter = jitter
        self._queues: tuple[deque[_T], ...] = tuple(deque() for _ in range(queues))
        self._arrived = asyncio.Event()
        self._fault = ""
        self._sent_total = metrics.forwarded.labels(target=store.name)
        self._lost_total = metrics.forwarding_lost.labels(target=store.name)
        self._waiting_gauge = metrics.forwarding_waiting.labels(target=store.name)
        self._up_gauge = metrics.forwarding_up.labels(target=store.name)

    @property
    def waiting(self) -> int:
        """How many records wait."""
        return sum(len(queue) for queue in self._queues)

    def put(self, record: _T, *, queue: int = 0) -> None:
        """Take a record; one that has no room is counted as lost. ``announce`` has it sent."""
        if len(self._queues[queue]) < MAX_WAITING:
            self._queues[queue].append(record)
        else:
            self._lost_total.inc()
            self._say("the queue is full")

    def announce(self) -> None:
        """Have sent what was put into the queues."""
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

    def _take(self) -> list[_T]:
        batch: list[_T] = []
        for queue in self._queues:
            batch += [queue.popleft() for _ in range(min(len(queue), MAX_BATCH - len(batch)))]
        return batch

    async def _send(self, batch: list[_T]) -> None:
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
