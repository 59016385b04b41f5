"""Growing delays with jitter: a CA that comes back isn't met by all sidecars at once. No I/O."""

from __future__ import annotations

import random

FIRST_S = 0.2
LAST_S = 15.0


class Backoff:
    """The delays of one series of tries, from ``FIRST_S`` up to ``LAST_S``."""

    def __init__(self) -> None:
        self._ceiling_s = FIRST_S

    def next(self) -> float:
        """Return the next delay in seconds."""
        delay_s = self._ceiling_s * random.uniform(0.5, 1)
        self._ceiling_s = min(self._ceiling_s * 2, LAST_S)
        return delay_s
