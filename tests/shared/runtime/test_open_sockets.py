"""A client's sockets are waited for until they are closed, and no longer than that is allowed."""

from __future__ import annotations

import asyncio
import socket

from shared.runtime.open_sockets import OpenSockets

ADDRESS = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 1))


async def test_all_sockets_are_waited_for() -> None:
    sockets = OpenSockets()
    await sockets.wait_closed(timeout_s=600)
    first, second = sockets.open(ADDRESS), sockets.open(ADDRESS)
    waiting = asyncio.create_task(sockets.wait_closed(timeout_s=600))
    first.close()
    await asyncio.sleep(0.05)
    assert not waiting.done()
    second.close()
    await waiting


async def test_one_that_stays_open_is_given_up() -> None:
    sockets = OpenSockets()
    with sockets.open(ADDRESS) as kept:
        await sockets.wait_closed(timeout_s=0.01)
        assert kept.fileno() != -1


def test_only_open_ones_are_remembered() -> None:
    sockets = OpenSockets()
    for _ in range(5):
        sockets.open(ADDRESS).close()
    with sockets.open(ADDRESS) as kept:
        assert sockets._sockets == [kept]
