"""How TCP connections end: a reset is seen as one, and what was written before an ending is delivered, and counted."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sidecar.sockets import ending
from sidecar.sockets.ending import close_after_delivery, count_untaken, end_writing, reset, reset_after_delivery
from tests.sidecar.little_ca import until
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


async def test_a_half_close_is_passed_on_and_one_that_comes_too_late_is_no_failure() -> None:
    near, far = tcp_pair()
    with near, far:
        end_writing(near)
        assert await asyncio.get_running_loop().sock_recv(far, 1) == b""
        assert far.send(b"the other half is open") > 0
    closed = socket.socket()
    closed.close()
    end_writing(closed)


def _count_acknowledged(connection: socket.socket) -> int:
    """Return ``tcpi_bytes_acked`` (include/uapi/linux/tcp.h): a SYN and a FIN count as one byte each."""
    return int(struct.unpack_from("Q", connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128), 120)[0])


@pytest.mark.parametrize("ends", ["never", "before the reset", "after the reset"])
async def test_what_a_reset_peer_has_not_taken_is_counted_without_the_fin(ends: str) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # Much less than what is written.
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    with near, far:
        near.setblocking(False)
        begun = _count_acknowledged(near)
        written = near.send(bytes(1_000_000))
        if ends == "before the reset":
            end_writing(near)
        reset(far)
        with pytest.raises(ConnectionResetError):
            await loop.sock_recv(near, 1)
        if ends == "after the reset":
            end_writing(near)
        untaken = count_untaken(near)
        assert untaken
        assert written - untaken == _count_acknowledged(near) - begun


async def test_a_peer_that_goes_on_writing_reads_the_last_word_before_its_writes_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """OpenSSL reads nothing after a failed write: the answer before a reset would be lost."""
    monkeypatch.setattr(ending, "DELIVERY_DEADLINE_S", 600.0)
    loop = asyncio.get_running_loop()
    near, far = tcp_pair()
    with near, far:
        far.send(b"unread")
        near.send(b"last word")
        close_after_delivery(loop, near)
        for _ in range(20):
            assert far.send(b"more") == 4
            await asyncio.sleep(0.001)
        assert far.recv(100) == b"last word"
        assert far.recv(100) == b""
        far.close()
        await until(lambda: near.fileno() < 0)


@pytest.mark.parametrize("bound", ["DELIVERY_DEADLINE_S", "MAX_DISCARDED_BYTES"])
async def test_a_peer_that_never_ends_is_waited_for_within_bounds(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "DELIVERY_DEADLINE_S", 0.01 if bound == "DELIVERY_DEADLINE_S" else 600.0)
    monkeypatch.setattr(ending, "MAX_DISCARDED_BYTES", 100 if bound == "MAX_DISCARDED_BYTES" else 1 << 40)
    near, far = tcp_pair()
    with near, far:
        far.send(bytes(200))
        close_after_delivery(asyncio.get_running_loop(), near)
        await until(lambda: near.fileno() < 0)


async def test_what_waits_for_a_peers_end_waits_no_longer_than_the_deadline() -> None:
    pauses: list[float] = []
    callbacks: list[Callable[[], None]] = []

    def call_later(pause_s: float, callback: Callable[[], None]) -> None:
        pauses.append(pause_s)
        callbacks.append(callback)

    near, far = tcp_pair()
    with near, far:
        close_after_delivery(cast("Any", SimpleNamespace(call_later=call_later)), near)
        while callbacks:
            callbacks.pop()()
        assert near.fileno() < 0
    assert sum(pauses) == pytest.approx(ending.DELIVERY_DEADLINE_S)
