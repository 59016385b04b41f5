"""Places for strangers whose request hasn't come yet: bounded together, shared out by where they come from. No I/O.

Who sends nothing must not keep others out: when every place is taken, a newcomer gets the oldest place of the source
that holds the most, unless its own source holds as many.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncIterator
from typing import Final

_V6_PREFIX: Final = 64  # One host may have as many addresses.


class NoPlaceError(Exception):
    """Every place is taken, and no source holds more of them than this one."""


class Places:
    """The places of one door.

    Arguments:
        limit: of all sources together.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken: dict[str, dict[asyncio.Timeout, None]] = {}  # Each source's in the order of their coming.
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @contextlib.asynccontextmanager
    async def take(self, address: str | None, *, deadline_s: float) -> AsyncIterator[None]:
        """Hold a place for as long as the context lasts.

        Arguments:
            address: the peer's IP address.

        Raises:
            NoPlaceError: there is none.
            TimeoutError: the deadline is over, or somebody else needed the place.
        """
        source = name_source(address)
        if self._count >= self.limit:
            self._make_room(source)
        async with asyncio.timeout(deadline_s) as deadline:
            mine = self._taken.setdefault(source, {})
            mine[deadline] = None
            self._count += 1
            try:
                yield
            finally:
                if deadline in mine:  # Else it was given away.
                    self._give_back(source, deadline)

    def _make_room(self, source: str) -> None:
        biggest = max(self._taken, key=lambda name: len(self._taken[name]))
        if len(self._taken[biggest]) <= len(self._taken.get(source, ())):
            raise NoPlaceError
        oldest = next(iter(self._taken[biggest]))
        self._give_back(biggest, oldest)
        oldest.reschedule(asyncio.get_running_loop().time())

    def _give_back(self, source: str, deadline: asyncio.Timeout) -> None:
        del self._taken[source][deadline]
        self._count -= 1
        if not self._taken[source]:
            del self._taken[source]


def name_source(address: str | None) -> str:
    """Return what counts as one source: an IPv4 address, or an IPv6 /64; of what has no address all is one."""
    try:
        parsed = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, _V6_PREFIX), strict=False))
    return str(parsed)
