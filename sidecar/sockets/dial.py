"""Dials TCP from the sidecar: to another sidecar, to an application, to a destination outside the mesh.

Belongs here: the non-blocking connect with its deadline and the sidecar's socket options. Doesn't: TLS, decisions.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket

from sidecar.sockets.address import Endpoint
from sidecar.sockets.liveness import keep_alive
from sidecar.sockets.polling import poller_of


class DialError(OSError):
    """The destination refused, can't be reached or didn't answer in time."""


async def dial(loop: asyncio.AbstractEventLoop, destination: Endpoint, *, mark: int, timeout_s: float) -> socket.socket:
    """Connect to an address and port.

    Arguments:
        mark: SO_MARK, by which the capture rules know the sidecar's own connections; 0 for none.

    Returns:
        a connected, non-blocking socket with TCP_NODELAY and keep-alive.

    Raises:
        DialError: it isn't connected within ``timeout_s``.
    """
    try:
        connection = dial_now(destination, mark=mark)
    except OSError as error:
        raise DialError(error.errno, f"{destination[0]}:{destination[1]}: {error.strerror or error}") from error
    try:
        if not _is_connected(connection, destination):
            until = loop.time() + timeout_s
            with poller_of(loop).watch(connection) as watch:
                await watch.wait_writable(timeout_s)
                while not _is_connected(connection, destination):
                    await watch.wait_writable(until - loop.time())
    except BaseException as error:
        connection.close()
        if isinstance(error, TimeoutError):
            raise DialError(errno.ETIMEDOUT, f"{destination[0]}:{destination[1]}: no answer in time") from error
        if isinstance(error, OSError):
            raise DialError(error.errno, f"{destination[0]}:{destination[1]}: {error.strerror or error}") from error
        raise
    return connection


def dial_now(destination: Endpoint, *, mark: int) -> socket.socket:
    """Begin to connect; the socket may not be connected yet.

    Raises:
        OSError: it failed at once.
    """
    family = socket.AF_INET6 if ":" in destination[0] else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keep_alive(connection)
        if mark:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        outcome = connection.connect_ex(destination)
        if outcome not in (0, errno.EINPROGRESS):
            raise OSError(outcome, os.strerror(outcome))
    except BaseException:
        connection.close()
        raise
    return connection


def _is_connected(connection: socket.socket, destination: Endpoint) -> bool:
    # To an address of this machine the first call has connected, though it said EINPROGRESS: the second one tells.
    outcome = connection.connect_ex(destination)
    if outcome in (0, errno.EISCONN):
        return True
    if outcome in (errno.EALREADY, errno.EINPROGRESS):
        return False
    raise OSError(outcome, os.strerror(outcome))
