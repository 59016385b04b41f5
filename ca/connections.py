"""Places for the connections of one listener: bounded, shared out by where they come from. I/O: closes connections.

Belongs here: how many connections there are, and which one goes when a newcomer needs its place. Doesn't: how long one
may stay silent (the server's ``keepalive_timeout``), or what a request may do.

A newcomer always gets a place: at the limit, the source with the most connections loses the one that has been without a
request for longest. A connection whose request is being answered keeps its place; how many of these there are is
bounded by who answers (``ca/api/access/turns.py``). Should they fill the room, the newcomer is closed.
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

_UCRED: Final = struct.Struct("3i")  # unix(7), SO_PEERCRED: pid, uid, gid.


class ConnectionRoom:
    """The connections of one listener.

    Arguments:
        limit: of all sources together.
        note_closed: called for each connection that is closed for want of a place.
    """

    def __init__(self, limit: int, *, note_closed: Callable[[], None]) -> None:
        self._limit = limit
        self._note_closed = note_closed
        self._count = 0
        # Each source's connections without a request, and with one; both in the order in which they came to be so.
        self._idle: dict[str, dict[_Connection, None]] = {}
        self._asking: dict[str, dict[_Connection, None]] = {}
        self._of_protocol: dict[asyncio.Protocol, _Connection] = {}

    def __len__(self) -> int:
        return self._count

    def admit(self, make_protocol: Callable[[], asyncio.Protocol]) -> Callable[[], asyncio.Protocol]:
        """Return what makes a connection's protocol, for ``loop.create_server``."""
        return lambda: _Connection(self, make_protocol())

    @contextlib.contextmanager
    def asking(self, protocol: object) -> Iterator[None]:
        """Keep a connection's place while its request is answered; a protocol of another room is passed over."""
        connection = self._of_protocol.get(protocol) if isinstance(protocol, asyncio.Protocol) else None
        if connection is None:
            yield
            return
        self._move(connection, self._idle, self._asking)
        try:
            yield
        finally:
            if connection.protocol in self._of_protocol:  # Else it has ended.
                self._move(connection, self._asking, self._idle)

    def enter(self, connection: _Connection) -> bool:
        """Give a connection a place; tell whether there is one."""
        if self._count >= self._limit and not self._make_place():
            self._note_closed()
            return False
        self._count += 1
        self._of_protocol[connection.protocol] = connection
        self._idle.setdefault(connection.source, {})[connection] = None
        return True

    def leave(self, connection: _Connection) -> None:
        """Take its place back, if it has one."""
        if self._of_protocol.get(connection.protocol) is not connection:
            return
        del self._of_protocol[connection.protocol]
        self._count -= 1
        for kind in (self._idle, self._asking):
            _remove(kind, connection)

    def _make_place(self) -> bool:
        if not self._idle:
            return False
        most = max(self._idle, key=lambda name: len(self._idle[name]) + len(self._asking.get(name, ())))
        oldest = next(iter(self._idle[most]))
        self.leave(oldest)
        oldest.abort()
        self._note_closed()
        return True

    @staticmethod
    def _move(
        connection: _Connection,
        from_kind: dict[str, dict[_Connection, None]],
        to_kind: dict[str, dict[_Connection, None]],
    ) -> None:
        _remove(from_kind, connection)
        to_kind.setdefault(connection.source, {})[connection] = None


def make_request_marker(*rooms: ConnectionRoom) -> Middleware:
    """Return the outermost middleware, which keeps the places of connections whose requests are answered."""

    @web.middleware
    async def mark(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        with contextlib.ExitStack() as stack:
            for room in rooms:
                stack.enter_context(room.asking(request.protocol))
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


def _remove(kind: dict[str, dict[_Connection, None]], connection: _Connection) -> None:
    of_source = kind.get(connection.source, {})
    of_source.pop(connection, None)
    if not of_source:
        kind.pop(connection.source, None)


class _Connection(asyncio.Protocol):
    """One connection: passes everything on to its protocol once it has a place."""

    def __init__(self, room: ConnectionRoom, protocol: asyncio.Protocol) -> None:
        self.protocol = protocol
        self.source = ""
        self._room = room
        self._transport: asyncio.Transport | None = None
        self._is_in = False

    def abort(self) -> None:
        """Close it at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.source = name_source(transport)
        self._is_in = self._room.enter(self)
        if self._is_in:
            self.protocol.connection_made(transport)
        else:
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._room.leave(self)
        if self._is_in:
            self.protocol.connection_lost(error)

    def data_received(self, data: bytes) -> None:
        if self._is_in:
            self.protocol.data_received(data)

    def eof_received(self) -> bool | None:
        return self.protocol.eof_received() if self._is_in else None

    def pause_writing(self) -> None:
        if self._is_in:
            self.protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._is_in:
            self.protocol.resume_writing()
