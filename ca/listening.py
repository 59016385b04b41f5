"""The CA's TCP listeners: bound early, with TLS, and closed to peers that send nothing. I/O.

Belongs here: sockets and the deadlines of a connection's first moments. Doesn't: what is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from ca.settings.configuration import format_endpoint
from shared.model.errors import InputError, UnavailableError

HANDSHAKE_DEADLINE_S: Final = 10.0
# From the handshake to the end of the first request's headers.
FIRST_REQUEST_DEADLINE_S: Final = 15.0
SHUTDOWN_S: Final = 5.0


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
        listener.listen(1024)
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
    keepalive_s: float | None = None,
) -> None:
    """Serve an application over TLS until the stack unwinds.

    Arguments:
        keepalive_s: how long a connection may wait for its next request; None: as long as for its first.
    """
    silent: set[object] = set()  # Connections that haven't sent their first request yet.

    @web.middleware
    async def note_request(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        silent.discard(request.protocol)
        return await handler(request)

    application.middlewares.insert(0, note_request)
    # The library would keep an idle stranger's connection for an hour.
    runner = web.AppRunner(
        application,
        access_log=None,
        shutdown_timeout=SHUTDOWN_S,
        keepalive_timeout=FIRST_REQUEST_DEADLINE_S if keepalive_s is None else keepalive_s,
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    make_protocol = runner.server
    assert make_protocol is not None
    loop = asyncio.get_running_loop()

    def make_bounded() -> web.RequestHandler:
        protocol = make_protocol()
        silent.add(protocol)

        def end_if_silent() -> None:
            if protocol in silent:
                silent.discard(protocol)
                if protocol.transport is not None:
                    protocol.transport.abort()

        loop.call_later(HANDSHAKE_DEADLINE_S + FIRST_REQUEST_DEADLINE_S, end_if_silent)
        return protocol

    server = await loop.create_server(
        make_bounded,
        sock=listener,
        ssl=context,
        ssl_handshake_timeout=HANDSHAKE_DEADLINE_S,
        ssl_shutdown_timeout=3.0,
    )
    stack.callback(server.close)
