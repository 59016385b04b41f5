"""The accept loop: batches, back-off without spinning."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import socket
import time

import pytest

from sidecar.capture import accept_loop as module
from sidecar.capture.accept_loop import AcceptLoop, open_listener
from sidecar.sockets.address import Endpoint
from tests.sidecar.little_ca import until


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_many_connections_are_accepted_non_blocking_and_without_delay(address: str) -> None:
    accepted: list[tuple[socket.socket, Endpoint]] = []
    loop = AcceptLoop(
        open_listener((address, 0)), lambda one, source: accepted.append((one, source)), on_pause=lambda *_: None
    )
    loop.start()
    clients = [socket.create_connection(loop.local) for _ in range(100)]
    await until(lambda: len(accepted) == 100)
    assert {source for _, source in accepted} == {client.getsockname()[:2] for client in clients}
    for connection, _ in accepted:
        assert not connection.getblocking()
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        connection.close()
    for client in clients:
        client.close()
    loop.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(loop.local)


async def test_connections_whose_first_look_takes_long_are_accepted_in_several_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SLICE_S", 0.0)
    running, turns, accepted = asyncio.get_running_loop(), [0], list[tuple[int, socket.socket]]()

    def turn() -> None:
        turns[0] += 1
        if len(accepted) < 5:
            running.call_soon(turn)

    loop = AcceptLoop(
        open_listener(("127.0.0.1", 0)),
        lambda one, _: accepted.append((turns[0], one)),
        on_pause=lambda *_: None,
    )
    clients = [socket.create_connection(loop.local) for _ in range(5)]
    loop.start()
    turn()
    await until(lambda: len(accepted) == 5)
    assert len({number for number, _ in accepted}) == 5
    for each in (*clients, *(one for _, one in accepted)):
        each.close()
    loop.close()


async def test_without_descriptors_it_pauses_instead_of_spinning_and_then_goes_on() -> None:
    accepted: list[socket.socket] = []
    pauses: list[float] = []
    loop = AcceptLoop(
        open_listener(("127.0.0.1", 0)),
        lambda one, _: accepted.append(one),
        on_pause=lambda _, pause_s: pauses.append(pause_s),
    )
    loop.start()
    client = socket.socket()
    gc.collect()  # What tests before have left isn't closed in between.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), hard))
    held = []
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        client.connect(loop.local)
        began = time.monotonic()
        await until(lambda: len(pauses) >= 3)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in held:
            os.close(descriptor)
    assert sum(pauses[:-1]) <= time.monotonic() - began
    assert pauses == sorted(pauses)
    assert pauses[0] > 0.01
    await until(lambda: accepted)
    accepted[0].close()
    client.close()
    loop.close()
