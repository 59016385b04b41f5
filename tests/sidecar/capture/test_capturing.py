"""The doors: an address that can't be had is named, nothing stays open, and nothing that was said is lost."""

from __future__ import annotations

import asyncio
import socket

import pytest

from shared.model.errors import MachineError
from sidecar.capture.capturing import Entrance, _guard, close_doors, open_doors
from sidecar.settings.configuration import Configuration, OutboundListener
from sidecar.sockets.ending import close_after_delivery
from tests.sidecar.little_ca import until


def outbound(*ports: int) -> Configuration:
    listeners = (OutboundListener(listen=("127.0.0.1", port), destination=("127.0.0.2", 1)) for port in ports)
    return Configuration(outbound=tuple(listeners))


def test_a_taken_port_is_named_and_the_others_are_closed_again() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(MachineError, match=str(taken.getsockname()[1])):
            open_doors(outbound(free, taken.getsockname()[1]))
        doors = open_doors(outbound(free))
        assert [door.entrance for door in doors] == [Entrance.EXPLICIT_OUT]
        close_doors(doors)


async def test_what_a_story_has_left_to_be_delivered_isnt_reset_when_it_ends() -> None:
    """A tunnel that says CLOSING, or RESET, is closed once its peer has read that."""
    near, far = await _connect()
    data = b"x" * 4_000_000

    async def story() -> None:
        await asyncio.get_running_loop().sock_sendall(near, b"first")
        sent = 0
        with pytest.raises(BlockingIOError):
            while True:
                sent += near.send(data)
        told.append(sent)
        close_after_delivery(asyncio.get_running_loop(), near)

    told: list[int] = []
    await _guard(near, story())
    received = bytearray()
    while more := await asyncio.get_running_loop().sock_recv(far, 65536):
        received += more
    assert len(received) == told[0] + 5
    far.close()
    await until(lambda: near.fileno() < 0)


async def test_what_a_failed_story_leaves_open_is_reset() -> None:
    near, far = await _connect()

    async def story() -> None:
        raise RuntimeError("ordered by the test")

    with pytest.raises(RuntimeError, match="ordered"):
        await _guard(near, story())
    with pytest.raises(ConnectionResetError):
        await asyncio.get_running_loop().sock_recv(far, 1)
    assert near.fileno() < 0
    far.close()


async def _connect() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        near, _ = listener.accept()
    near.setblocking(False)
    far.setblocking(False)
    return near, far
