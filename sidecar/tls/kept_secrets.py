"""The secrets of handshakes, kept for later ones: for whom, how many, how long; and short waits for some that are near.

Belongs here: which secret is given out, which must go, who waits. Doesn't: TLS (``resumption.py``). No I/O.

An initiator offers what a responder has kept, so both keep the newest. One peer may have so many that a burst of its
connections finds some; where there are too many in all, those go first who have the most, and the oldest of theirs:
nobody pushes out the secrets of another one who has fewer, at however many of this pod's ports it leaves its own.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Final

# Since the handshake in which the peer proved that it holds its key: a tunnel isn't used for longer either.
MAX_AGE_S: Final = 900.0
# Each takes 0.4 KiB. Those of a row share its peer's chain: 2 KiB of ours, and 16 KiB at the most.
MAX_SECRETS: Final = 1024
# What is kept to be offered to one peer: as many as a whole handshake leaves.
MAX_OFFERS: Final = 32
# What is kept of one peer that offers: it drops its oldest at the same time or before, whatever is under way.
MAX_OF_PEER: Final = 2 * MAX_OFFERS
# By then the peer has kept what was kept here: a responder ends a handshake a little later than the initiator.
_SETTLED_S: Final = 1.0
# What may be derived by handshakes that haven't ended: those of 64. Of a flood only the newest are waited for.
_MAX_EXPECTED: Final = 2048
# The peer has ended its part of the handshake, whose last flight is on its way.
_ENDING_S: Final = 1.0
# For another handshake with the same peer, which takes a few milliseconds where it is near. Where it is far, or never
# ends, this is what a burst's other connections lose.
_ANOTHER_S: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What the secrets of one handshake share.

    Attributes:
        chain: what the peer presented (DER, leaf first) when it proved that it holds the leaf's key.
        proven_at: when that was, in seconds of ``time.monotonic()``.
        kept_at: when the handshake that they were derived from ended here.
    """

    chain: tuple[bytes, ...] = field(repr=False)
    proven_at: float
    kept_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """What one later handshake may rest on.

    Attributes:
        name: what the client says, in the clear, to name it; unpredictable, and of no use for anything else.
    """

    name: bytes
    key: bytes = field(repr=False)
    origin: Origin


# By name, the oldest first.
_Stock = dict[bytes, tuple[bytes, Origin]]
# What they are bound to, and whose they are.
_Place = tuple[Hashable, Hashable]


class Secrets:
    """Secrets of this process by what they are bound to; each is given out once. Of one event loop, but for ``expect``.

    Arguments:
        most: in all.
        read_clock: seconds of a clock that is never set.

    Attributes:
        full, resumed: how many handshakes held that rested on nothing, or on a secret of these.
    """

    def __init__(self, most: int = MAX_SECRETS, read_clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._read_clock = read_clock
        self._stocks: OrderedDict[_Place, _Stock] = OrderedDict()
        self._places: dict[bytes, _Place] = {}
        # The places of each that has some, and how many secrets in them; whose newest is the oldest first.
        self._owned: dict[Hashable, OrderedDict[_Place, None]] = {}
        self._counts: dict[Hashable, int] = {}
        self._lock = threading.Lock()
        # The names that an unfinished handshake's end would make known; with each, who waits for that end.
        self._expected: OrderedDict[bytes, list[asyncio.Future[None]]] = OrderedDict()
        self._under_way: dict[Hashable, _UnderWay] = {}
        self.full = 0
        self.resumed = 0

    def __len__(self) -> int:
        return len(self._places)

    def keep(
        self, binding: Hashable, derived: Mapping[bytes, bytes], origin: Origin, *, whose: Hashable = None
    ) -> None:
        """Keep a handshake's secrets, by name, for whoever asks with an equal binding.

        Arguments:
            whose: at a responder, who will name them; None at an initiator.
        """
        self._drop_old()
        place = (binding, whose)
        owner = _owner_of(place)
        stock = self._stocks.setdefault(place, {})
        self._stocks.move_to_end(place)
        places = self._owned.setdefault(owner, OrderedDict())
        places[place] = None
        places.move_to_end(place)
        self._counts[owner] = self._counts.pop(owner, 0) + len(derived)
        for name, key in derived.items():
            stock[name] = (key, origin)
            self._places[name] = place
        self._drop_oldest(place, len(stock) - (MAX_OFFERS if whose is None else MAX_OF_PEER))
        while (surplus := len(self._places) - self._most) > 0:
            largest = max(self._counts, key=self._counts.__getitem__)
            self._drop_oldest(next(iter(self._owned[largest])), min(surplus, (self._counts[largest] + 1) // 2))

    def take(self, binding: Hashable) -> Secret | None:
        """Give out a secret, to offer it; None: there is none that isn't too old.

        The newest that the peer has kept as well by now: one of many initiators' oldest may have been dropped there.
        In a burst of handshakes none may be that old, and the oldest is the most likely one.
        """
        place = (binding, None)
        stock = self._stocks.get(place)
        if stock is None:
            return None
        name = next(iter(stock))
        if self._is_settled(stock[name][1]):  # Else none is: they were kept in this order.
            name = next(each for each in reversed(stock) if self._is_settled(stock[each][1]))
        return self._give_out(place, name)

    def find(self, binding: Hashable, name: bytes) -> Secret | None:
        """Give out the secret that a peer names; None: there is none, it is bound to something else, or too old."""
        place = self._places.get(name)
        return None if place is None or place[0] != binding else self._give_out(place, name)

    def forget(self, binding: Hashable) -> None:
        """Drop all that would be offered: the peer has lost one of them, so most likely the others too."""
        place = (binding, None)
        self._drop_oldest(place, len(self._stocks.get(place, ())))

    def is_settled(self, secret: Secret) -> bool:
        """Tell whether the peer has kept it as well, unless it has lost it since."""
        return self._is_settled(secret.origin)

    def now(self) -> float:
        """Read the clock that ``proven_at`` and ``kept_at`` are read from."""
        return self._read_clock()

    def expect(self, names: Mapping[bytes, bytes]) -> list[asyncio.Future[None]]:
        """Note what an unfinished handshake will have derived, when the peer may know it; return who waits.

        May be called in another thread.
        """
        waiting: list[asyncio.Future[None]] = []
        with self._lock:
            self._expected.update(dict.fromkeys(names, waiting))
            while len(self._expected) > _MAX_EXPECTED:
                self._expected.popitem(last=False)
        return waiting

    def end_expecting(self, names: Mapping[bytes, bytes], waiting: list[asyncio.Future[None]]) -> None:
        """The handshake has ended, and its secrets are kept, or never will be."""
        with self._lock:
            for name in names:
                self._expected.pop(name, None)
        for each in waiting:
            if not each.done():
                each.set_result(None)

    async def wait_until_kept(self, name: bytes) -> None:
        """Wait, where the handshake that a secret is derived from hasn't ended here yet, for a short time.

        Who knows its name has ended it, and may have begun the next one before this end has seen the last flight.
        """
        with self._lock:
            waiting = self._expected.get(name)
        if waiting is None:
            return
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(ended)
        try:
            async with asyncio.timeout(_ENDING_S):
                await ended
        except TimeoutError:
            return  # The secret isn't known then, and the handshake is a whole one.

    def begin(self, binding: Hashable, *, rests_on_secret: bool) -> None:
        """A handshake that may leave secrets begins at an initiator."""
        self._under_way.setdefault(binding, _UnderWay()).begin(rests_on_secret)

    def end(self, binding: Hashable, *, rests_on_secret: bool) -> None:
        """It has ended: as many of those that wait for it go on as find a secret, or all where none is to be had."""
        under_way = self._under_way[binding]
        under_way.end(rests_on_secret)
        under_way.wake(len(self._stocks.get((binding, None), ())))
        self._tidy(binding)

    async def wait_for_another(self, binding: Hashable) -> None:
        """Wait a short time, where there is no secret to offer, for handshakes that are under way and may leave one."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _ANOTHER_S
        while not self._has(binding):
            under_way, left_s = self._under_way.get(binding), until - loop.time()
            if under_way is None or not under_way.is_promising or left_s <= 0:
                return
            try:
                async with asyncio.timeout(left_s):
                    if not await under_way.wait(loop):
                        return
            except TimeoutError:
                return
            finally:
                self._tidy(binding)

    def _tidy(self, binding: Hashable) -> None:
        under_way = self._under_way.get(binding)
        if under_way is not None and not under_way:
            del self._under_way[binding]

    def _has(self, binding: Hashable) -> bool:
        stock = self._stocks.get((binding, None))
        return stock is not None and any(self._is_young(origin) for _, origin in stock.values())

    def _is_settled(self, origin: Origin) -> bool:
        return self._read_clock() - origin.kept_at >= _SETTLED_S

    def _is_young(self, origin: Origin) -> bool:
        return 0 <= self._read_clock() - origin.proven_at < MAX_AGE_S

    def _give_out(self, place: _Place, name: bytes) -> Secret | None:
        key, origin = self._stocks[place][name]
        self._drop(place, [name])
        return Secret(name=name, key=key, origin=origin) if self._is_young(origin) else None

    def _drop_oldest(self, place: _Place, count: int) -> None:
        stock = self._stocks.get(place)
        if stock is None:
            return
        self._drop(place, [name for name, _ in zip(stock, range(count), strict=False)])

    def _drop(self, place: _Place, names: list[bytes]) -> None:
        owner, stock = _owner_of(place), self._stocks[place]
        for name in names:
            del stock[name], self._places[name]
        self._counts[owner] -= len(names)
        if not stock:
            del self._stocks[place], self._owned[owner][place]
        if not self._owned[owner]:
            del self._owned[owner], self._counts[owner]

    def _drop_old(self) -> None:
        """Drop what can't be used any more, of those that were kept first."""
        while self._stocks:
            place, stock = next(iter(self._stocks.items()))
            if any(self._is_young(origin) for _, origin in stock.values()):
                return
            self._drop_oldest(place, len(stock))


def _owner_of(place: _Place) -> Hashable:
    """Return who left what is there: a peer at any of our ports, or at an initiator whom it dialled."""
    return place if place[1] is None else place[1]


class _UnderWay:
    """An initiator's unfinished handshakes with one peer, and who waits for what they leave."""

    __slots__ = ("_count", "_resting", "_waiting")

    def __init__(self) -> None:
        self._count = self._resting = 0
        # What each waits for becomes True when a secret is there, False when none is to be had.
        self._waiting: deque[asyncio.Future[bool]] = deque()

    def __bool__(self) -> bool:
        return bool(self._count or self._waiting)

    @property
    def is_promising(self) -> bool:
        """Whether to wait: for the only one, or where the peer has kept secrets before."""
        return self._count == 1 or bool(self._resting)

    def begin(self, rests_on_secret: bool) -> None:
        self._count += 1
        self._resting += rests_on_secret

    def end(self, rests_on_secret: bool) -> None:
        self._count -= 1
        self._resting -= rests_on_secret

    def wake(self, found: int) -> None:
        """Let go on those that came first."""
        count = found if found or self.is_promising else len(self._waiting)
        while count and self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(found > 0)
                count -= 1

    async def wait(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Return whether it is worth looking for a secret again."""
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiting.append(waiter)
        try:
            return await waiter
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
