"""Metrics that nothing counts as it happens: they are looked at every few seconds. I/O: the store.

Belongs here: how the store answers, what waits in queues, how far the audit log is. Doesn't: the metrics themselves
(``ca/metrics.py``), or those of a rotation (``laggards.py``).
"""

from __future__ import annotations

import time
from typing import Final

from ca.distribution.hub import Hub
from ca.metrics import Metrics
from ca.store.store import Store
from shared.model.errors import TouchmarkError

LOOK_INTERVAL_S: Final = 15.0


class Gauges:
    """Looks."""

    def __init__(self, *, store: Store, hub: Hub, metrics: Metrics) -> None:
        self._store = store
        self._hub = hub
        self._metrics = metrics
        metrics.ledger_waiting.set_function(lambda: float(len(store.ledger)))
        metrics.stream_messages_waiting.set_function(lambda: float(sum(len(session.outbox) for session in hub)))

    async def look(self) -> None:
        """Write a row and read the audit log's end. A store that fails is what is measured, no error."""
        begun = time.perf_counter()
        try:
            await self._store.check()
            end = await self._store.audit.list_lines(limit=1, newest=True)
        except TouchmarkError:
            self._metrics.store_up.set(0)
            return
        self._metrics.store_up.set(1)
        self._metrics.store_seconds.observe(time.perf_counter() - begun)
        self._metrics.audit_lines.set(end.head.sequence)
