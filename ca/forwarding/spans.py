"""Spans towards an OpenTelemetry collector. No I/O of its own.

Belongs here: that a span is only offered, and never waited for. Doesn't: what is traced (``ca/tracing.py``), or bounds
and repetition (``courier.py``).
"""

from __future__ import annotations

import random
from collections.abc import Callable

from ca.forwarding.courier import Courier, Destination
from ca.metrics import Metrics
from shared.model.formats.otlp_traces import Span


class SpanForwarder(Courier[Span]):
    """Sends spans to one collector.

    Arguments:
        jitter: a number from 0 to 1, for the waits between tries.
    """

    def __init__(
        self, store: Destination[Span], *, metrics: Metrics, jitter: Callable[[], float] = random.random
    ) -> None:
        super().__init__(store, queues=1, metrics=metrics, jitter=jitter)

    def offer(self, span: Span) -> None:
        """Take a span that has ended; one that has no room is counted as lost."""
        self.put(span)
        self.announce()
