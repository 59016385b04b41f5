"""The sockets of an HTTP client that outlive its close. I/O.

The TLS connection of a WebSocket, or of a request that was broken off, closes only once the server has answered its end
(RFC 8446 §6.1), and aiohttp doesn't wait for that: where the event loop ends before, the socket stays open.

Belongs here: opening sockets, and waiting until all of them are closed. Doesn't: any client.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any, Final

_POLL_S: Final = 0.01


class OpenSockets:
    """Opens a client's sockets and remembers those that are open: the ``socket_factory`` of an aiohttp connector."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def open(self, address: tuple[Any, ...]) -> socket.socket:
        """Open one for an entry of ``getaddrinfo``."""
        opened = socket.socket(*address[:3])
        self._sockets = [*(each for each in self._sockets if each.fileno() != -1), opened]
        return opened

    async def wait_closed(self, *, timeout_s: float) -> None:
        """Return once all are closed, or when the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                # Nothing tells of a transport's end.
                while any(each.fileno() != -1 for each in self._sockets):  # noqa: ASYNC110
                    await asyncio.sleep(_POLL_S)
