"""Both ends of ``bench.held``: ``python -m bench.held_program serve HOST PORT`` and ``open HOST PORT COUNT [THREADS]``.

The server answers each connection's first byte and holds the connection. The client waits for a line on standard
input, opens all its connections at once, sends a byte on each, waits until each was answered or ended, prints what
became of them as one JSON object, and holds those that were answered until standard input ends. It starts that many
idle threads before it opens any: many programs have some.
"""

from __future__ import annotations

import asyncio
import errno
import json
import select
import socket
import sys
import threading
import time

TIMEOUT_S = 120.0


async def serve(address: str, port: int) -> None:
    """Answer each connection's first byte."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(64):
                writer.write(data)
        except OSError:
            pass
        writer.close()

    server = await asyncio.start_server(answer, address, port, backlog=4096)
    await server.serve_forever()


def open_at_once(address: str, port: int, count: int) -> tuple[dict[str, object], list[socket.socket]]:
    """Open that many connections at once; return what became of them, and those that were answered."""
    poll, started = select.epoll(), time.perf_counter()
    waiting: dict[int, socket.socket] = {}
    answered: list[socket.socket] = []
    seconds: list[float] = []
    ends: dict[str, int] = {}
    for _ in range(count):
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex((address, port))
        waiting[connection.fileno()] = connection
        poll.register(connection.fileno(), select.EPOLLOUT)
    while waiting and time.perf_counter() - started < TIMEOUT_S:
        for descriptor, _ in poll.poll(1.0):
            connection = waiting[descriptor]
            try:
                if failure := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(failure, "")
                try:
                    data = connection.recv(1)
                except BlockingIOError:
                    connection.send(b"x")
                    poll.modify(descriptor, select.EPOLLIN)
                    continue
                if data:
                    answered.append(connection)
                    seconds.append(round(time.perf_counter() - started, 6))
                how = "" if data else "ended"
            except OSError as error:
                how = errno.errorcode.get(error.errno or 0, "error")
            if how:
                ends[how] = ends.get(how, 0) + 1
                connection.close()
            else:
                poll.unregister(descriptor)
            del waiting[descriptor]
    if waiting:
        ends["unanswered"] = len(waiting)
    return {"seconds": seconds, "ends": ends}, answered


def main(arguments: list[str]) -> None:
    """Be one of the two ends."""
    kind, address, port = arguments[0], arguments[1], int(arguments[2])
    if kind == "serve":
        asyncio.run(serve(address, port))
        return
    sys.stdin.readline()
    for _ in range(int(arguments[4]) if len(arguments) > 4 else 0):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    report, answered = open_at_once(address, port, int(arguments[3]))
    print(json.dumps(report), flush=True)
    sys.stdin.read()
    for connection in answered:
        connection.close()


if __name__ == "__main__":
    main(sys.argv[1:])
