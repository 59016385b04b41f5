"""The CA's TCP listeners: bound early, with TLS, and closed to peers that send nothing. I/O.

Belongs here: sockets and the deadlines of a connection's first moments. Doesn't: what is served, or which connection
has to go when there are too many (``connections.py``). A connection has its place from its first moment: its handshake
takes more memory than what comes after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog
from aiohttp import web

from ca.connections import ConnectionRoom, Visitor, make_request_marker
from ca.http_faults import make_server_logger
from ca.places import name_source
from ca.settings.configuration import format_endpoint
from shared.model.errors import InputError, UnavailableError
from shared.runtime.tasks import Tasks

HANDSHAKE_DEADLINE_S: Final = 10.0
# From the handshake to the end of the first request's headers.
FIRST_REQUEST_DEADLINE_S: Final = 15.0
# The server's own limits come to a megabyte for each connection. Sidecars and API servers send a dozen short headers.
MAX_HEADERS: Final = 32
MAX_FIELD_BYTES: Final = 2_048
SHUTDOWN_S: Final = 5.0
# In one turn of the loop: few, so that those who have begun are served before others begin. Thousands that come at once
# would otherwise all advance together, and where that takes longer than a sidecar's dial, all in vain. Who waits in the
# kernel's queue costs nothing, and has its handshake's time still before it.
MAX_ACCEPTED: Final = 8
# The kernel takes no more than net.core.somaxconn. Who finds the queue full asks again after a second, then three.
_BACKLOG: Final = 8_192
_CLOSED_BY_PEER: Final = frozenset({7, 8})  # TCP_CLOSE and TCP_CLOSE_WAIT, linux/net/tcp_states.h.
# Without a free descriptor nothing is accepted for so long.
_PAUSE_S: Final = 1.0

_log = structlog.get_logger("touchmark.ca")


def bind(host: str, port: int) -> socket.socket:
    """Make a listening socket; port 0 is any free one.

    Raises:
        InputError: the address can't be resolved.
        UnavailableError: it can't be listened on.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise InputError(f"the address can't be resolved: {host}: {error}") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        where = format_endpoint(host, port)
        hints = {
            errno.EADDRINUSE: "another process listens there: stop it or choose another address",
            errno.EADDRNOTAVAIL: "this machine has no such address",
            errno.EACCES: "ports below 1024 need root or CAP_NET_BIND_SERVICE",
        }
        raise UnavailableError(
            f"can't listen on {where}: {error.strerror}", hint=hints.get(error.errno or 0, "")
        ) from error
    return listener


async def serve_tls(
    stack: contextlib.AsyncExitStack,
    application: web.Application,
    listener: socket.socket,
    context: ssl.SSLContext,
    *,
    room: ConnectionRoom,
    keepalive_s: float | None = None,
) -> None:
    """Serve an application over TLS until the stack unwinds.

    Arguments:
        room: bounds its connections.
        keepalive_s: how long a connection may wait for its next request; None: as long as for its first.
    """
    application.middlewares.insert(0, make_request_marker(room))
    # The library would keep an idle stranger's connection for an hour.
    runner = web.AppRunner(
        application,
        access_log=None,
        shutdown_timeout=SHUTDOWN_S,
        keepalive_timeout=FIRST_REQUEST_DEADLINE_S if keepalive_s is None else keepalive_s,
        max_headers=MAX_HEADERS,
        max_field_size=MAX_FIELD_BYTES,
        logger=make_server_logger(),
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    make_protocol = runner.server
    assert make_protocol is not None
    handshakes = Tasks(lambda name, error: _log.error("handshake_failed", task=name, message=str(error)))
    stack.push_async_callback(partial(handshakes.close, timeout_s=SHUTDOWN_S))
    door = _Door(listener, context, room=room, make_protocol=make_protocol, handshakes=handshakes)
    stack.callback(door.close)
    door.open()


class _Door:
    """Accepts connections, and sees them through their handshakes."""

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        *,
        room: ConnectionRoom,
        make_protocol: Callable[[], asyncio.Protocol],
        handshakes: Tasks,
    ) -> None:
        self._listener = listener
        self._context = context
        self._room = room
        self._make_protocol = make_protocol
        self._handshakes = handshakes
        self._again: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Accept from now on."""
        self._again = None
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def close(self) -> None:
        """Accept no more: who comes now is refused at once and goes elsewhere, instead of waiting for our end."""
        if self._again is not None:
            self._again.cancel()
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()

    def _accept(self) -> None:
        for _ in range(MAX_ACCEPTED):
            try:
                connection, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # Too many descriptors are open, mostly.
                loop = asyncio.get_running_loop()
                loop.remove_reader(self._listener)
                self._again = loop.call_later(_PAUSE_S, self.open)
                _log.error("accept_failed", message=error.strerror)
                return
            if _has_gone(connection):
                connection.close()
                continue
            connection.setblocking(False)
            cut = partial(_cut, connection)
            visitor = self._room.knock(self._make_protocol, source=name_source(address[0]), cut=cut)
            if visitor is None:
                connection.close()
            else:
                self._handshakes.spawn(self._shake_hands(connection, visitor), name="handshake")

    async def _shake_hands(self, connection: socket.socket, visitor: Visitor) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: visitor,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_DEADLINE_S,
                ssl_shutdown_timeout=3.0,
            )
            if self._room.has(visitor):
                visitor.wait_for_request(FIRST_REQUEST_DEADLINE_S)
        except OSError:
            pass  # The peer's fault, or it was cut off.
        finally:
            if not visitor.is_connected:
                self._room.leave(visitor)
                connection.close()


def _has_gone(connection: socket.socket) -> bool:
    """Return whether the peer has closed its side while it waited: its handshake would be in vain."""
    try:
        return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in _CLOSED_BY_PEER
    except OSError:
        return True


def _cut(connection: socket.socket) -> None:
    """End a connection during its handshake, whoever has its socket by now."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
