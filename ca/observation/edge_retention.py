"""How long edges are kept: the least of an age, a size, and what leaves a tenth of SQLite's disk free. I/O: the store.

Their retention is apart from the decisions': a decision takes two kilobytes and lasts days, an edge's hour takes ninety
bytes and lasts a month.
"""

from __future__ import annotations

from typing import Final

from ca.store.store import Store

EDGES_PRUNE_INTERVAL_S: Final = 600.0
_KEPT_FREE_SHARE: Final = 0.1


class EdgeRetention:
    """What is kept of the edges.

    Arguments:
        max_age_s: hours that are older are forgotten.
        max_bytes: beyond this size the oldest days are.
    """

    def __init__(self, store: Store, *, max_age_s: float, max_bytes: int) -> None:
        self._store = store
        self._max_age_s = max_age_s
        self._max_bytes = max_bytes

    async def prune(self, *, now: float) -> int:
        """Forget what is too old or too much, in transactions between which others have their turn."""
        space = await self._store.database.look_at_disk()
        max_bytes = float(self._max_bytes)
        if space is not None and (missing := space.total * _KEPT_FREE_SHARE - space.free) > 0:
            size, _ = await self._store.edges.estimate_bytes()
            max_bytes = min(max_bytes, max(1.0, size - missing))
        total = 0
        while gone := await self._store.edges.prune(max_age_s=self._max_age_s, max_bytes=int(max_bytes), now=now):
            total += gone
        return total
