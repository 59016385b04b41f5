"""Dialling: connected, refused, silent."""

from __future__ import annotations

import asyncio
import socket

import pytest

from sidecar.sockets.dial import DialError, dial
from tests.free_ports import free_port


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_a_listener_is_reached_with_a_ready_non_blocking_socket(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as listener:
        connection = await dial(asyncio.get_running_loop(), listener.getsockname()[:2], mark=0, timeout_s=30)
        assert connection.gettimeout() == 0
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        connection.send(b"x")
        connection.close()


async def test_a_refusal_is_a_dial_error_that_names_the_destination() -> None:
    port = free_port()
    with pytest.raises(DialError, match=f"127.0.0.1:{port}.*refused"):
        await dial(asyncio.get_running_loop(), ("127.0.0.1", port), mark=0, timeout_s=30)


async def test_a_silent_destination_is_given_up_at_the_deadline() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = []
        try:
            for _ in range(3):  # A full backlog: the kernel drops further SYNs.
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
                fillers.append(filler)
            with pytest.raises(DialError, match="no answer in time"):
                await dial(asyncio.get_running_loop(), listener.getsockname(), mark=0, timeout_s=0.2)
        finally:
            for filler in fillers:
                filler.close()
