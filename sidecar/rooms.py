"""How many may be here at once: bounds for each class of connections, and within a class for each address.

Belongs here: counting, and who is refused when a room is full. Doesn't: what is counted (``capture``, the stories), how
fast handshakes begin (``sidecar/tls/handshake_gate.py``). No I/O.

The pod's own connections, members' tunnels, strangers' plaintext connections and unfinished handshakes each have a room
of their own, so that none of them takes another's place. Most of a room may be taken by one address, since one pod may
well have thousands of connections to another; a reserve beyond it is for addresses that hold few.
"""

from __future__ import annotations

import socket
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol, Self

_RESERVED_PART = 8
_FEW_PART = 64


class Room:
    """A bounded number of places.

    Arguments:
        limit: places that anybody may take. An eighth more is for those that hold fewer than a 64th of them.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._reserve = max(1, limit // _RESERVED_PART) if limit else 0
        self._few = max(1, limit // _FEW_PART)
        self._held: dict[str, int] = {}
        self._taken = 0

    def __len__(self) -> int:
        return self._taken

    @property
    def limit(self) -> int:
        """Places that anybody may take."""
        return self._limit

    def has_place(self, who: str) -> bool:
        """Return whether ``who`` would get a place now."""
        return self._taken < self._limit or (
            self._taken < self._limit + self._reserve and self._held.get(who, 0) < self._few
        )

    def enter(self, who: str) -> Place | None:
        """Take a place; None where there is none for ``who``."""
        if not self.has_place(who):
            return None
        return self._take(who)

    def replace(self, place: Place, who: str) -> Place:
        """Give ``who`` the place of another; no more are taken than before."""
        place.leave()
        return self._take(who)

    def _take(self, who: str) -> Place:
        self._taken += 1
        self._held[who] = self._held.get(who, 0) + 1
        return Place(self, who)

    def give_back(self, who: str) -> None:
        """Count one place of ``who`` as free again; called by the ``Place``."""
        self._taken -= 1
        if (held := self._held[who] - 1) > 0:
            self._held[who] = held
        else:
            del self._held[who]


class Place:
    """One place in a room, until ``leave`` or the end of a ``with`` block."""

    __slots__ = ("_room", "_who")

    def __init__(self, room: Room, who: str) -> None:
        self._room: Room | None = room
        self._who = who

    def leave(self) -> None:
        """Give the place back; at the second call nothing happens."""
        if self._room is not None:
            self._room.give_back(self._who)
            self._room = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()


class Waiter(Protocol):
    """What waits on an idle tunnel for its next connection."""

    @property
    def is_waiting(self) -> bool:
        """Whether nothing has come yet."""

    def expire(self) -> None:
        """Wait no longer: the tunnel is closed in good order."""


class PeerRoom:
    """Places for members' tunnels and foreign peers; when it is full, the tunnel that was idle longest makes room."""

    def __init__(self, limit: int) -> None:
        self._room = Room(limit)
        self._idle: OrderedDict[Waiter, Place] = OrderedDict()

    def __len__(self) -> int:
        return len(self._room)

    @property
    def limit(self) -> int:
        """Places that anybody may take."""
        return self._room.limit

    def enter(self, address: str) -> Place | None:
        """Take a place for a peer that has proven itself; None where there is none, and no tunnel is idle."""
        who = group_address(address)
        if (place := self._room.enter(who)) is not None:
            return place
        idle = self._end_idle()
        return None if idle is None else self._room.replace(idle, who)

    def note_idle(self, waiter: Waiter, place: Place) -> None:
        """From now on this tunnel may have to make room."""
        self._idle[waiter] = place

    def note_busy(self, waiter: Waiter) -> None:
        """From now on it doesn't."""
        self._idle.pop(waiter, None)

    def _end_idle(self) -> Place | None:
        while self._idle:
            waiter, place = self._idle.popitem(last=False)
            if waiter.is_waiting:
                waiter.expire()
                return place
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """The rooms of one sidecar.

    Attributes:
        outbound: the pod's own connections.
        strangers: plaintext connections that arrive, by address.
        peers: tunnels and plain mTLS connections whose handshake held, by address.
    """

    outbound: Room
    strangers: Room
    peers: PeerRoom


def make_rooms(limit: int) -> Rooms:
    """Make rooms of ``limit`` places each."""
    return Rooms(outbound=Room(limit), strangers=Room(limit), peers=PeerRoom(limit))


def group_address(address: str) -> str:
    """Return what an address is counted under: itself, or an IPv6 address's /64, of which one machine has all."""
    if ":" not in address:
        return address
    try:
        return socket.inet_pton(socket.AF_INET6, address.partition("%")[0])[:8].hex()
    except OSError:
        return address
