"""When a peer's handshake may begin.

Belongs here: the bound on unfinished handshakes, the rate at which they begin, fairness between addresses. Doesn't: the
handshake (``handshake.py``), the threads that compute it (``handshake_workers.py``).

A full handshake costs this side about a millisecond, most of it in OpenSSL, which anybody may cause who reaches the
port. Addresses of which one handshake has held lately, or that the directory lists in the mesh, come first and quickly;
all others share a rate, in turns, so that a flood from one address delays another's first handshake by a turn at most.
Of those that the directory doesn't list only some may wait: what waits costs memory and the garbage collector's time.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import Final

from shared.model.policy.reasons import Reason
from sidecar.rooms import Place, Room, group_address
from sidecar.tls.handshake import HandshakeError

MAX_KNOWN: Final = 4096
# Beginnings a second: for unknown addresses a fifth of what one core can compute, for known ones more than it can.
UNKNOWN_PER_S: Final = 200.0
KNOWN_PER_S: Final = 2000.0
# More than a second's worth: who waits longer than that has mostly left.
MAX_STRANGERS_WAITING: Final = 256
# More at once would keep the loop busy: each begins with the look at the program that listens.
_UNKNOWN_BURST: Final = 8
_KNOWN_BURST: Final = 16
_TICK_S: Final = 0.002


IsMember = Callable[[], Awaitable[bool | None]]


class HandshakeGate:
    """The handshakes of peers that arrive.

    Arguments:
        limit: unfinished ones at once, those that wait for their beginning included.
    """

    def __init__(self, limit: int) -> None:
        self._room = Room(limit)
        self._known: OrderedDict[str, None] = OrderedDict()
        self._fast = _Lane(KNOWN_PER_S, _KNOWN_BURST)
        self._slow = _Lane(UNKNOWN_PER_S, _UNKNOWN_BURST)
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._room)

    @property
    def limit(self) -> int:
        """Unfinished handshakes at once that anybody may have."""
        return self._room.limit

    def has_place(self, address: str) -> bool:
        """Return whether a handshake with this address would be taken now."""
        return self._room.has_place(group_address(address))

    def enter(self, address: str) -> Place:
        """Count a handshake; leave the place when it has ended.

        Raises:
            HandshakeError: ``overloaded``: there are too many.
        """
        place = self._room.enter(group_address(address))
        if place is None:
            raise HandshakeError("too many handshakes are unfinished", reason=Reason.OVERLOADED)
        return place

    async def wait_turn(self, address: str, *, is_member: IsMember, timeout_s: float) -> None:
        """Wait until a handshake with this address may begin.

        Arguments:
            is_member: finds out whether the directory lists it in the mesh, None if that can't be told now; asked where
                it has to wait, once for all that wait with this address. It must not raise.

        Raises:
            HandshakeError: ``overloaded``: that took too long, or too many strangers wait.
        """
        who, loop = group_address(address), asyncio.get_running_loop()
        lane = self._fast if who in self._known else self._slow
        if lane.take(loop.time()):
            return
        is_first = lane is self._slow and not lane.has_waiting(who)
        turn = lane.queue(who)
        self._arm(loop)
        try:
            async with asyncio.timeout(timeout_s):
                if is_first:
                    async with asyncio.TaskGroup() as group:
                        finding = group.create_task(self._find_out(address, is_member), name="who wants a handshake")
                        turn.add_done_callback(lambda _: finding.cancel())
                        may_begin = await turn
                else:
                    may_begin = await turn
        except TimeoutError as error:
            raise HandshakeError("too many handshakes are wanted", reason=Reason.OVERLOADED) from error
        if not may_begin:
            raise HandshakeError("too many strangers want handshakes", reason=Reason.OVERLOADED)

    async def _find_out(self, address: str, is_member: IsMember) -> None:
        if (found := await is_member()) is None:
            return
        if found:
            self.note_known(address)
        else:
            self._slow.note_stranger(group_address(address))

    def note_known(self, address: str) -> None:
        """A handshake with this address has held, or it is a member's: those that wait and its next ones come first."""
        who = group_address(address)
        self._known[who] = None
        self._known.move_to_end(who)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        self._fast.take_over(who, self._slow)

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is None and (self._fast or self._slow):
            self._timer = loop.call_later(_TICK_S, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for lane in (self._fast, self._slow):
            lane.grant(now)
        self._arm(loop)


class _Lane:
    """Waiting turns by address, granted at a rate, one address after another."""

    def __init__(self, per_s: float, most: float) -> None:
        self._per_s = per_s
        self._most = most
        self._tokens = most
        self._refilled = 0.0
        # What each waits for becomes True when it may begin, False when it has to leave.
        self._waiting: OrderedDict[str, deque[asyncio.Future[bool]]] = OrderedDict()
        # Those that wait and aren't listed in the mesh.
        self._strangers: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def take(self, now: float) -> bool:
        """Begin at once, where nothing waits and the rate allows it."""
        self._refill(now)
        if self._waiting or self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def has_waiting(self, who: str) -> bool:
        """Return whether ``who`` waits, and has not left."""
        turns = self._waiting.get(who)
        return turns is not None and not turns[-1].done()

    def queue(self, who: str) -> asyncio.Future[bool]:
        """Wait: the future is True when it is this one's turn, False when it can't wait any longer."""
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        turns = self._waiting.setdefault(who, deque())
        # Under a flood the newest come first, so that those that have left would stay: the oldest leave first.
        while turns and turns[0].done():
            turns.popleft()
        turns.append(turn)
        if who in self._strangers:
            self._shed()
        return turn

    def note_stranger(self, who: str) -> None:
        """Count those that wait with this address, now and until none does, as strangers, of whom only some may."""
        if who in self._waiting:
            self._strangers.add(who)
            self._shed()

    def _shed(self) -> None:
        """Let the oldest leave, of the address with the most, until no more strangers wait than may."""
        surplus = sum(len(self._waiting[who]) for who in self._strangers) - MAX_STRANGERS_WAITING
        while surplus > 0:
            most = max(self._strangers, key=lambda who: len(self._waiting[who]))
            turn = self._waiting[most].popleft()
            if not self._waiting[most]:
                self._forget(most)
            if not turn.done():
                turn.set_result(False)
            surplus -= 1

    def _forget(self, who: str) -> deque[asyncio.Future[bool]] | None:
        self._strangers.discard(who)
        return self._waiting.pop(who, None)

    def grant(self, now: float) -> None:
        """Let those begin whose turn it is."""
        self._refill(now)
        while self._waiting and self._tokens >= 1:
            who, turns = self._waiting.popitem(last=False)
            # An address's newest first: under a flood the oldest have mostly left.
            turn = turns.pop()
            if turns:
                self._waiting[who] = turns  # Behind the others.
            else:
                self._strangers.discard(who)
            if not turn.done():
                turn.set_result(True)
                self._tokens -= 1

    def take_over(self, who: str, other: _Lane) -> None:
        """Queue here what waits for ``who`` in another lane."""
        if (turns := other._forget(who)) is not None:
            self._waiting.setdefault(who, deque()).extend(turns)

    def _refill(self, now: float) -> None:
        self._tokens = min(self._most, self._tokens + (now - self._refilled) * self._per_s)
        self._refilled = now
