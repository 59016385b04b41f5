"""Load generators with few moving parts, each run as a process of its own: ``python -m bench.load KIND HOST PORT N``.

Kinds: ``bulk`` (N MiB over one connection, or over as many at once as a further number says), ``first-byte`` (N fresh
connections, one after another), ``idle`` (N connections that each carried one request and stay open until standard
input ends). Blocking sockets: with one connection at a time nothing is faster. Each prints
one JSON object; any fault ends it with a message and status 1.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

COUNT: Final = struct.Struct("!Q")
MIB: Final = 1024 * 1024
_TIMEOUT_S: Final = 30.0
_REQUEST: Final = b"GET / HTTP/1.1\r\nHost: bench.invalid\r\n\r\n"
_ANSWER_START: Final = b"HTTP/1.1 200"
_HEADER_END: Final = b"\r\n\r\n"


class LoadError(Exception):
    """The subject lost or refused something."""


def send_bulk(address: str, port: int, mebibytes: int, streams: int = 1) -> dict[str, float]:
    """Send that many MiB, divided among ``streams`` connections at once, and wait for the backend's counts.

    Returns:
        ``bytes`` and ``seconds``, from the first connection's start to the last one's answer.
    """
    started = time.perf_counter()
    with ThreadPoolExecutor(max_workers=streams) as senders:
        # A thread waits in the kernel nearly all the time, without the interpreter's lock.
        counts = [
            sender.result()
            for sender in [senders.submit(_send_stream, address, port, mebibytes // streams) for _ in range(streams)]
        ]
    return {"bytes": sum(counts), "seconds": time.perf_counter() - started}


def _send_stream(address: str, port: int, mebibytes: int) -> int:
    block = memoryview(bytes(MIB))
    with _connect(address, port) as connection:
        connection.sendall(COUNT.pack(mebibytes * MIB))
        for _ in range(mebibytes):
            connection.sendall(block)
        answer = _receive_exactly(connection, COUNT.size)
    (count,) = COUNT.unpack(answer)
    if count != mebibytes * MIB:
        raise LoadError(f"{mebibytes * MIB} bytes were sent, {count} arrived")
    return int(count)


def time_first_bytes(address: str, port: int, count: int) -> dict[str, list[float]]:
    """Return the seconds from ``connect`` to the first byte of the answer, for ``count`` fresh connections."""
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        with _connect(address, port) as connection:
            connection.sendall(_REQUEST)
            first = connection.recv(65536)
            seconds.append(time.perf_counter() - started)
        if not first.startswith(_ANSWER_START):
            raise LoadError(f"no answer but {first[:40]!r}")
    return {"seconds": seconds}


def hold_idle(address: str, port: int, count: int) -> None:
    """Open ``count`` connections, carry one request over each, say so, and hold them until standard input ends."""
    held: list[socket.socket] = []
    for _ in range(count):
        connection = _connect(address, port)
        connection.sendall(_REQUEST)
        answer = b""
        while _HEADER_END not in answer:
            part = connection.recv(65536)
            if not part:
                raise LoadError(f"connection {len(held)} ended without an answer")
            answer += part
        held.append(connection)
    print(json.dumps({"held": len(held)}), flush=True)
    sys.stdin.read()
    for connection in held:
        connection.setblocking(False)
        try:
            rest = connection.recv(65536)
        except BlockingIOError:
            continue
        if not rest:
            raise LoadError("an idle connection was closed")


def _connect(address: str, port: int) -> socket.socket:
    connection = socket.create_connection((address, port), timeout=_TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _receive_exactly(connection: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count:
        part = connection.recv(count - len(received))
        if not part:
            raise LoadError(f"the stream ended after {len(received)} of {count} bytes")
        received += part
    return received


def main(arguments: list[str]) -> None:
    """Run one kind of load."""
    kind, address, port, count = arguments[0], arguments[1], int(arguments[2]), int(arguments[3])
    if kind == "bulk":
        print(json.dumps(send_bulk(address, port, count, *map(int, arguments[4:]))))
    elif kind == "first-byte":
        print(json.dumps(time_first_bytes(address, port, count)))
    elif kind == "idle":
        hold_idle(address, port, count)
    else:
        raise LoadError(f"unknown kind {kind!r}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (LoadError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
