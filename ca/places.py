"""Places for strangers whose request hasn't come yet: bounded together, shared out by where they come from. No I/O.

Who sends nothing must not keep others out: when every place is taken, a newcomer gets the oldest place of the source
that holds the most, unless its own source holds as many.

At a door with a line, that of sidecars with a certificate, a place is taken from a source only if it still holds as
many as the newcomer's then; else the newcomer waits. Thousands of sidecars that come at once hold one place each: they
would take them from one another, and none would come to speak. Sources take turns in the line: one that fills its half
of it delays the others by one place in each round.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
from collections.abc import AsyncIterator
from typing import Final

_V6_PREFIX: Final = 64  # One host may have as many addresses.


class NoPlaceError(Exception):
    """Every place is taken, and no source holds more of them than this one; or the line is full or too slow."""


class Places:
    """The places of one door.

    Arguments:
        limit: of all sources together.
        line: how many may wait for a place, half of them of one source; 0: none.
    """

    def __init__(self, limit: int, *, line: int = 0) -> None:
        self.limit = limit
        self._line = line
        # Each source's newcomers in the order of their coming; the sources in the order of their turns.
        self._waiting_of: dict[str, dict[asyncio.Future[None], None]] = {}
        self._waiting = 0
        self._taken: dict[str, dict[asyncio.Timeout, None]] = {}  # Each source's in the order of their coming.
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def waiting(self) -> int:
        """How many wait in the line."""
        return self._waiting

    @contextlib.asynccontextmanager
    async def take(self, address: str | None, *, deadline_s: float) -> AsyncIterator[None]:
        """Hold a place for as long as the context lasts.

        Arguments:
            address: the peer's IP address.
            deadline_s: for which it is held, and for which a place is waited for.

        Raises:
            NoPlaceError: there is none.
            TimeoutError: the deadline is over, or somebody else needed the place.
        """
        source = name_source(address)
        if self._count >= self.limit and not self._make_room(source):
            await self._wait(source, deadline_s)
        else:
            self._count += 1
        async with asyncio.timeout(deadline_s) as deadline:
            mine = self._taken.setdefault(source, {})
            mine[deadline] = None
            try:
                yield
            finally:
                if deadline in mine:  # Else it was given away.
                    self._give_back(source, deadline)

    def _make_room(self, source: str) -> bool:
        """Take a place from another source; False: a newcomer of this one has to wait.

        Raises:
            NoPlaceError: nobody waits here.
        """
        biggest = max(self._taken, key=lambda name: len(self._taken[name]), default="")
        least = len(self._taken.get(source, ())) + bool(self._line)
        if len(self._taken.get(biggest, ())) <= least:
            if not self._line:
                raise NoPlaceError
            return False
        oldest = next(iter(self._taken[biggest]))
        self._remove(biggest, oldest)
        self._count -= 1
        if not oldest.expired():  # Else it is going already: its own deadline is over at this very moment.
            oldest.reschedule(asyncio.get_running_loop().time())
        return True

    async def _wait(self, source: str, deadline_s: float) -> None:
        """Wait until a place is handed over to this newcomer: it is counted all the time."""
        if self._waiting >= self._line or len(self._waiting_of.get(source, ())) >= max(1, self._line // 2):
            raise NoPlaceError
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting_of.setdefault(source, {})[turn] = None
        self._waiting += 1
        try:
            async with asyncio.timeout(deadline_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self._hand_over()  # It had been handed over to this one, which has gone.
            elif turn in self._waiting_of.get(source, ()):
                self._leave_line(source, turn)
            if isinstance(error, TimeoutError):
                raise NoPlaceError from error
            raise

    def _leave_line(self, source: str, turn: asyncio.Future[None]) -> None:
        """Take one out of the line; the others of its source come after all other sources."""
        others = self._waiting_of.pop(source)
        del others[turn]
        self._waiting -= 1
        if others:
            self._waiting_of[source] = others

    def _give_back(self, source: str, deadline: asyncio.Timeout) -> None:
        self._remove(source, deadline)
        self._hand_over()

    def _remove(self, source: str, deadline: asyncio.Timeout) -> None:
        del self._taken[source][deadline]
        if not self._taken[source]:
            del self._taken[source]

    def _hand_over(self) -> None:
        """Give a place that is counted to the first of the source whose turn it is, or to nobody."""
        while self._waiting_of:
            source = next(iter(self._waiting_of))
            turn = next(iter(self._waiting_of[source]))
            self._leave_line(source, turn)
            if not turn.done():
                turn.set_result(None)
                return
        self._count -= 1


@functools.lru_cache(maxsize=4_096)
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
