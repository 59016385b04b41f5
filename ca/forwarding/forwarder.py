"""Decisions towards one log store: which of them are offered. No I/O of its own.

Belongs here: sampling, and that allowed connections never take a denial's place. Doesn't: bounds and repetition
(``courier.py``). Each replica forwards what it has stored itself; what is lost here, the store has.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

from ca.forwarding.courier import Courier, Destination
from ca.metrics import Metrics
from shared.model.formats.endpoint import Gravity, weigh
from shared.model.policy.decision import DecisionRecord

_GRAVE: Final = 0
_ALLOWED: Final = 1


class Forwarder(Courier[DecisionRecord]):
    """Sends decisions to one log store.

    Arguments:
        every: one of so many allowed connections is sent, 0: none. What is refused, or would be, always is.
        jitter: a number from 0 to 1, for the waits between tries.
    """

    def __init__(
        self,
        store: Destination[DecisionRecord],
        *,
        every: int,
        metrics: Metrics,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(store, queues=2, metrics=metrics, jitter=jitter)
        self._every = every
        self._seen = 0

    def offer(self, records: Sequence[DecisionRecord]) -> None:
        """Take records that are stored; what has no room is counted as lost."""
        for record in records:
            if weigh(record) is not Gravity.ALLOWED:
                self.put(record, queue=_GRAVE)
                continue
            self._seen += 1
            if self._every and not self._seen % self._every:
                self.put(record, queue=_ALLOWED)
        self.announce()
