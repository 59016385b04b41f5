"""Places for the connections of one listener: bounded, shared out by where they come from. I/O: closes connections.

Belongs here: how many connections there are, and which one goes when a newcomer needs its place. Doesn't: how long one
may stay silent (the server's ``keepalive_timeout``), or what a request may do.

A newcomer always gets a place from those that ask nothing now: at the limit, the source with the most strangers loses
the one that has been without a request for longest; where no stranger is left, so does the caller with the most
connections. Callers that were authenticated are their own sources: who opens many without saying who it is takes none
of theirs. A connection whose request is being answered keeps its place; how many of these there are is bounded by who
answers (``ca/api/access/turns.py``, ``ca/places.py``). Should they fill the room, the newcomer is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, cast

from aiohttp import web
from aiohttp.typedefs import Middleware

from shared.model.errors import TooManyRequestsError

_UCRED: Final = struct.Struct("3i")  # unix(7), SO_PEERCRED: pid, uid, gid.


class ConnectionRoom:
    """The connections of one listener.

    Arguments:
        limit: of all sources together.
        note_closed: called for each connection that is closed for want of a place.
        of_one: of one authenticated caller; 0: as many as there are.
        max_head_bytes: what one may send before its request is answered; 0: what the server takes. Only where requests
            have no bodies.
        max_bytes: what one may send while its request is answered and it has a place; 0: what the answering part takes.
        note_flood: called for each connection that is closed because it sent more.
    """

    def __init__(
        self,
        limit: int,
        *,
        note_closed: Callable[[], None],
        of_one: int = 0,
        max_head_bytes: int = 0,
        max_bytes: int = 0,
        note_flood: Callable[[], None] = lambda: None,
    ) -> None:
        self.limit = limit
        self.max_head_bytes = max_head_bytes
        self.max_bytes = max_bytes
        self.note_flood = note_flood
        self._note_closed = note_closed
        self._of_one = of_one
        self._count = 0
        # Each source's connections: without a request and unknown, without one and known, with one; all in the order
        # in which they came to be so.
        self._strangers = _Sources()
        self._known = _Sources()
        self._asking = _Sources()
        self._of_protocol: dict[asyncio.Protocol, Visitor] = {}

    def __len__(self) -> int:
        return self._count

    def admit(self, make_protocol: Callable[[], asyncio.Protocol]) -> Callable[[], asyncio.Protocol]:
        """Return what makes a connection's protocol, for ``loop.create_server``; it gets its place once connected."""
        return lambda: Visitor(self, make_protocol())

    def knock(
        self, make_protocol: Callable[[], asyncio.Protocol], *, source: str, cut: Callable[[], None]
    ) -> Visitor | None:
        """Give a place to a connection that has its handshake before it; None where there is none.

        Arguments:
            cut: ends it during its handshake.
        """
        visitor = Visitor(self, make_protocol(), source=source, cut=cut)
        return visitor if self.enter(visitor) else None

    @contextlib.contextmanager
    def asking(self, protocol: object, caller: str = "") -> Iterator[None]:
        """Keep a connection's place while its request is answered; a protocol of another room is passed over.

        Arguments:
            caller: who was authenticated; empty: nobody yet.

        Raises:
            TooManyRequestsError: all places of this caller are taken by requests.
        """
        visitor = self._of_protocol.get(protocol) if isinstance(protocol, asyncio.Protocol) else None
        if visitor is None:
            yield
            return
        if caller:
            self._rename(visitor, caller)
        self._move(visitor, self._asking)
        try:
            yield
        finally:
            if visitor.protocol in self._of_protocol:  # Else it has ended.
                self._move(visitor, self._known if visitor.is_known else self._strangers)

    def release(self, protocol: object) -> None:
        """Let a connection go on without a place: it is counted elsewhere from now on."""
        visitor = self._of_protocol.get(protocol) if isinstance(protocol, asyncio.Protocol) else None
        if visitor is not None:
            self.leave(visitor)

    def vouch(self, visitor: Visitor) -> None:
        """Say that a connection's peer has shown who it is."""
        visitor.is_known = True
        if visitor.protocol in self._of_protocol:
            self._move(visitor, self._known)

    def enter(self, visitor: Visitor) -> bool:
        """Give a connection a place; tell whether there is one."""
        if self._count >= self.limit and not (
            self._close_oldest(self._strangers, self._strangers.find_most())
            or self._close_oldest(self._known, self._known.find_most())
        ):
            self._note_closed()
            return False
        self._count += 1
        self._of_protocol[visitor.protocol] = visitor
        self._strangers.add(visitor)
        return True

    def has(self, visitor: Visitor) -> bool:
        """Tell whether a connection has a place."""
        return self._of_protocol.get(visitor.protocol) is visitor

    def leave(self, visitor: Visitor) -> None:
        """Take its place back, if it has one."""
        visitor.stop_waiting()
        visitor.is_heard, visitor.is_counted = True, False
        if not self.has(visitor):
            return
        del self._of_protocol[visitor.protocol]
        self._count -= 1
        self._remove(visitor)

    def _rename(self, visitor: Visitor, caller: str) -> None:
        if visitor.source == caller and visitor.is_known:
            return
        count = self._known.count(caller) + self._asking.count(caller)
        if 0 < self._of_one <= count and not self._close_oldest(self._known, caller):
            raise TooManyRequestsError(
                f"{caller} has {count} connections with requests under way", hint="let some of them end"
            )
        self._remove(visitor)
        visitor.source, visitor.is_known = caller, True

    def _close_oldest(self, kind: _Sources, source: str) -> bool:
        if not kind.count(source):
            return False
        oldest = kind.find_oldest(source)
        self.leave(oldest)
        oldest.abort()
        self._note_closed()
        return True

    def _move(self, visitor: Visitor, kind: _Sources) -> None:
        visitor.is_heard = kind is self._asking
        visitor.received_bytes = 0
        if visitor.is_heard:
            visitor.stop_waiting()
        self._remove(visitor)
        kind.add(visitor)

    def _remove(self, visitor: Visitor) -> None:
        for kind in (self._strangers, self._known, self._asking):
            kind.remove(visitor)


def make_request_marker(room: ConnectionRoom) -> Middleware:
    """Return the outermost middleware, which keeps the places of connections whose requests are answered."""

    @web.middleware
    async def mark(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        with room.asking(request.protocol):
            return await handler(request)

    return mark


def name_source(transport: asyncio.BaseTransport) -> str:
    """Return what counts as one source: a user of this machine, or an address."""
    peer: socket.socket | None = transport.get_extra_info("socket")
    if peer is None:
        return ""
    try:
        if peer.family == socket.AF_UNIX:
            return f"uid {_UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[1]}"
        return str(peer.getpeername()[0])
    except OSError:  # It has gone already.
        return ""


class _Sources:
    """Connections by source. Each step takes the same time however many sources there are: strangers choose that."""

    def __init__(self) -> None:
        self._of: dict[str, dict[Visitor, None]] = {}  # Each source's, in the order in which they came.
        self._sized: dict[int, dict[str, None]] = {}  # Sources by how many they have.
        self._most = 0

    def count(self, source: str) -> int:
        """Return how many connections a source has."""
        return len(self._of.get(source, ()))

    def find_oldest(self, source: str) -> Visitor:
        """Return the oldest connection of a source that has some."""
        return next(iter(self._of[source]))

    def find_most(self) -> str:
        """Return a source of those with the most connections; empty: there is none."""
        return next(iter(self._sized.get(self._most, ())), "")

    def add(self, visitor: Visitor) -> None:
        of_source = self._of.setdefault(visitor.source, {})
        before = len(of_source)
        of_source[visitor] = None
        self._resize(visitor.source, before, len(of_source))

    def remove(self, visitor: Visitor) -> None:
        of_source = self._of.get(visitor.source)
        if of_source is None or visitor not in of_source:
            return
        before = len(of_source)
        del of_source[visitor]
        if not of_source:
            del self._of[visitor.source]
        self._resize(visitor.source, before, before - 1)

    def _resize(self, source: str, before: int, after: int) -> None:
        if before == after:
            return
        if before:
            del self._sized[before][source]
            if not self._sized[before]:
                del self._sized[before]
        if after:
            self._sized.setdefault(after, {})[source] = None
        # The source itself is among the next smaller ones where it was the last one of those with the most.
        self._most = after if after > self._most or self._most not in self._sized else self._most


class Visitor(asyncio.Protocol):
    """One connection: passes everything on to its protocol once it has a place.

    Attributes:
        source: whose place it takes.
        is_known: its peer has shown who it is.
        is_heard: its request is answered, or it needs no place: what it sends is bounded by who answers.
        is_counted: what it sends is bounded here as well, as long as it has a place.
        received_bytes: since its request came.
    """

    def __init__(
        self,
        room: ConnectionRoom,
        protocol: asyncio.Protocol,
        *,
        source: str = "",
        cut: Callable[[], None] | None = None,
    ) -> None:
        self.protocol = protocol
        self.source = source
        self.is_known = False
        self.is_heard = False
        self.is_counted = room.max_bytes > 0
        self.received_bytes = 0
        self._room = room
        self._unheard_bytes = 0
        self._cut = cut
        self._transport: asyncio.Transport | None = None
        self._is_in = False
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def is_connected(self) -> bool:
        """Whether its handshake, if there is one, has ended well."""
        return self._transport is not None

    def abort(self) -> None:
        """Close it at once."""
        if self._transport is not None:
            self._transport.abort()
        elif self._cut is not None:
            self._cut()

    def wait_for_request(self, deadline_s: float) -> None:
        """Close it unless it asks something by then."""
        self._deadline = asyncio.get_running_loop().call_later(deadline_s, self.abort)

    def stop_waiting(self) -> None:
        """It has asked, or gone."""
        self._unheard_bytes = 0
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._cut is None:
            self.source = name_source(transport)
            self._is_in = self._room.enter(self)
        else:
            self._is_in = self._room.has(self)  # Else it was closed in this very moment.
            shown = transport.get_extra_info("peercert")
            if self._is_in and shown:
                self._room.vouch(self)
                # The event loop keeps this as long as the connection lives; who asks later asks OpenSSL for the DER.
                shown.clear()
        if self._is_in:
            self.protocol.connection_made(transport)
        else:
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._room.leave(self)
        if self._is_in:
            self.protocol.connection_lost(error)

    def data_received(self, data: bytes) -> None:
        if not self._is_in:
            return
        if not self.is_heard:
            self._unheard_bytes += len(data)
        elif self.is_counted:
            self.received_bytes += len(data)
        if 0 < self._room.max_head_bytes < self._unheard_bytes:
            self.abort()
        elif self.is_counted and self.received_bytes > self._room.max_bytes:
            self._room.note_flood()
            self.abort()
        else:
            self.protocol.data_received(data)

    def eof_received(self) -> bool | None:
        return self.protocol.eof_received() if self._is_in else None

    def pause_writing(self) -> None:
        if self._is_in:
            self.protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._is_in:
            self.protocol.resume_writing()
