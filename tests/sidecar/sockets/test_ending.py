"""How TCP connections end: a reset is seen as one, and what was written before an ending is delivered."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from sidecar.sockets.ending import reset, reset_after_delivery
from tests.sidecar.pump.test_plain_pump import tcp_pair


def test_a_reset_is_no_clean_end() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    connection, _ = listener.accept()
    reset(connection)
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    client.close()
    listener.close()


async def test_a_reset_after_delivery_delivers_first() -> None:
    loop = asyncio.get_running_loop()
    near, far = tcp_pair()
    with near, far:
        unsent = b"z" * 3_000_000
        ending = asyncio.ensure_future(reset_after_delivery(loop, near, unsent, deadline_s=60))
        received = 0
        with pytest.raises(ConnectionResetError):
            while chunk := await loop.sock_recv(far, 65536):
                received += len(chunk)
        await ending
        assert received == len(unsent)


async def test_a_reset_does_not_wait_for_a_reader_for_ever() -> None:
    loop = asyncio.get_running_loop()
    near, far = tcp_pair()
    with near, far:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
        await asyncio.wait_for(reset_after_delivery(loop, near, b"z" * 30_000_000, deadline_s=0.2), 30)
        assert near.fileno() == -1
