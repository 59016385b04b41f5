"""How many tunnels of one kind are being made at once; further ones wait here, before anything of them has begun.

Belongs here: waiting for a place. Doesn't: dialling (``connector.py``), what is remembered of failures
(``dial_failures.py``).

Of thousands that begin at once each would wait, connected, until this side has computed the handshakes of all: longer
than the other side waits for a ClientHello, or for the end of a handshake.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from shared.runtime.patience import Patience
from sidecar.tunnel.pool import TunnelKey

# Computed in 0.1 s or less; with a round trip of 100 ms still 640 tunnels a second.
MAX_AT_ONCE: Final = 64


@dataclass(slots=True, kw_only=True)
class _Line:
    patience: Patience
    places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_AT_ONCE))
    users: int = 0


class DialQueue:
    """Places by tunnel key: a destination that doesn't answer delays none but its own. First come, first served.

    Arguments:
        patience_s: how long none of a key's dials may finish while another waits.
    """

    def __init__(self, *, patience_s: float) -> None:
        self._patience_s = patience_s
        self._lines: dict[TunnelKey, _Line] = {}

    def __len__(self) -> int:
        return sum(line.users for line in self._lines.values())

    @asynccontextmanager
    async def place(self, key: TunnelKey) -> AsyncIterator[None]:
        """Hold a place while a tunnel is made.

        Raises:
            TimeoutError: those before made no progress.
        """
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line(patience=Patience(self._patience_s))
        line.users += 1
        try:
            if line.places.locked():
                async with line.patience.wait():
                    await line.places.acquire()
            else:
                await line.places.acquire()
            try:
                yield
            finally:
                line.places.release()
                line.patience.note_progress()
        finally:
            line.users -= 1
            if not line.users:
                del self._lines[key]
