"""Connections whose sockets are held by a process that is being measured: they wait for it, and search for nobody.

Belongs here: who waits, and that not all go on in one turn of the event loop. Doesn't: whether the process holds
the socket (``sidecar/attestor.py``), measuring it (``sidecar/attest/measure.py``). Belongs to the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from sidecar.attest.netlink.sock_diag import KernelSocket

_MAX_WAITING = 16_384
_ANSWERS_AT_ONCE = 16


class Fellows:
    """Who waits for which process; a program may start with thousands of connections at once."""

    def __init__(self) -> None:
        self._waiting: dict[int, deque[asyncio.Future[None]]] = {}
        self._cookies: set[int] = set()

    async def wait(self, pid: int, found: KernelSocket) -> bool:
        """Wait for ``answer``; False at once if too many wait, or this socket stands behind another one that does."""
        if len(self._cookies) >= _MAX_WAITING or found.cookie in self._cookies:
            return False
        answer = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(pid, deque()).append(answer)
        self._cookies.add(found.cookie)
        try:
            await answer
        finally:
            self._cookies.discard(found.cookie)
        return True

    def answer(self, pid: int) -> None:
        """Let those who wait for a process go on, 16 in each turn of the event loop."""
        if waiting := self._waiting.pop(pid, None):
            _answer(waiting)

    def close(self) -> None:
        """Stop; who still waits is cancelled."""
        for waiting in self._waiting.values():
            for answer in waiting:
                answer.cancel()
        self._waiting.clear()


def has_failed(measuring: asyncio.Task[Any]) -> bool:
    """Tell whether a process's measuring has ended without a result: the process is closed then."""
    return measuring.done() and (measuring.cancelled() or measuring.exception() is not None)


def _answer(waiting: deque[asyncio.Future[None]]) -> None:
    left = _ANSWERS_AT_ONCE
    while waiting and left:
        answer = waiting.popleft()
        if not answer.done():  # Else who waited has been cancelled.
            answer.set_result(None)
            left -= 1
    if waiting:
        asyncio.get_running_loop().call_soon(_answer, waiting)
