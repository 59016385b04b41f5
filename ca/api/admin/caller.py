"""Who asks on the admin API, as far as this end of the connection knows: for the audit log. I/O: the user's name.

On the Unix socket the kernel says who connected. On the loopback port it says nothing: someone who may forward a port
to the pod has reached it, and the CA can't know who. The API server's audit log names who created ``pods/portforward``.

Nothing here allows or refuses anything.
"""

from __future__ import annotations

import asyncio
import pwd
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from ca.store.audit.acting import acting_as
from shared.model.wire.admin_audit import AuditActor

_UCRED: Final = struct.Struct("3i")  # unix(7), SO_PEERCRED: pid, uid, gid.
_MAX_NAME_CHARACTERS: Final = 128


@web.middleware
async def note_caller(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Have the request's acts recorded as its caller's. A reader has none."""
    if request.method in ("GET", "HEAD"):
        return await handler(request)
    with acting_as(await identify_caller(request.transport)):
        return await handler(request)


async def identify_caller(transport: asyncio.BaseTransport | None) -> AuditActor:
    """Return who is at the other end of a connection. A process may have passed the connection on to another."""
    peer = None if transport is None else transport.get_extra_info("socket")
    if peer is None:  # The client has hung up.
        return AuditActor(kind="socket", origin="the connection had ended")
    if peer.family == socket.AF_UNIX:
        pid, uid, gid = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        name = await asyncio.to_thread(_find_user, uid)
        return AuditActor(kind="socket", name=name[:_MAX_NAME_CHARACTERS], uid=uid, gid=gid, pid=pid)
    assert transport is not None
    address = transport.get_extra_info("peername") or ("", 0)
    return AuditActor(kind="port", origin=f"{address[0]} port {address[1]}")


def _find_user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # A container's user often has no name.
        return ""
