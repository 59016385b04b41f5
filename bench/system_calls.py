"""What the system calls of one new connection cost at least: ``python -m bench.system_calls``.

The calls of both sidecars for one connection as of ``first_byte``, whose program is known and whose tunnel is idle, in
their order (as ``strace`` shows them), made by one thread between sockets of its own: with neither TLS nor decisions,
without attestation's looks at ``/proc``, and without an event loop. Nobody sleeps while another one works, so that no
wake-up is counted; what the kernel does for the other end of a loopback connection is. Does I/O.
"""

from __future__ import annotations

import argparse
import os
import select
import socket
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from sidecar.attest.netlink.sock_diag import MAX_REPLY_BYTES, build_listener_dump, build_lookup, parse_reply
from sidecar.sockets.address import Endpoint
from sidecar.sockets.liveness import keep_alive
from sidecar.tunnel.frames import CONNECTION_ID_BYTES

_TABLE_WIDTH: Final = 110
_HOST: Final = "127.0.0.1"
_NETLINK_SOCK_DIAG: Final = 4
_READ: Final = select.EPOLLIN | select.EPOLLRDHUP
# Bytes as in ``first_byte``; a record of the tunnel is read as its header and the rest.
_REQUEST, _OPENING, _ANSWER, _ANSWER_RECORD, _END_RECORD = 39, 92, 149, 179, 26
_RECORD_HEADER: Final = 5
_PATIENCE_S: Final = 60.0  # The kernel delivers within the call that sends, or a little later on a busy machine.
_TURNS: Final = {"client": 3, "server": 2}  # Of the event loop between two steps of a story: it asks epoll each time.

Step = tuple[str, str]
"""A side, and what it calls."""


class Timer:
    """Seconds by side and call, one value for each connection."""

    def __init__(self) -> None:
        self.rounds: list[dict[Step, float]] = []
        self.counts: dict[Step, int] = {}
        self._seconds: defaultdict[Step, float] = defaultdict(float)
        self._counts: defaultdict[Step, int] = defaultdict(int)
        self.least_s = min(self._time(os.getpid) for _ in range(1000))

    def call(self, side: str, name: str, function: Callable[..., Any], *arguments: object, calls: int = 1) -> Any:
        """Make a system call, or several, and add what it took."""
        started = time.perf_counter()
        result = function(*arguments)
        self._seconds[side, name] += time.perf_counter() - started
        self._counts[side, name] += calls
        return result

    def end_round(self) -> None:
        """One connection has been made."""
        self.rounds.append(dict(self._seconds))
        self.counts = dict(self._counts)
        self._seconds.clear()
        self._counts.clear()

    def least(self, step: Step) -> float:
        """Return the 10th percentile of the connections: what else the machine does makes single ones longer."""
        return statistics.quantiles([each[step] for each in self.rounds], n=10)[0]

    @staticmethod
    def _time(function: Callable[[], object]) -> float:
        started = time.perf_counter()
        function()
        return time.perf_counter() - started


class Sides:
    """The sockets of both sidecars, of a program and of a server, each bound to a port that the kernel chose."""

    def __init__(self) -> None:
        self.door, self.server = (socket.create_server((_HOST, 0), backlog=16) for _ in range(2))
        self.door.setblocking(False)
        with socket.create_server((_HOST, 0)) as listener:
            self.client_tunnel = socket.create_connection(listener.getsockname())
            self.server_tunnel, _ = listener.accept()
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self.netlink = socket.socket(socket.AF_NETLINK, kind, _NETLINK_SOCK_DIAG)
        self.epolls: dict[str, tuple[select.epoll, select.epoll]] = {}
        for side, watched in (("client", (self.door, self.client_tunnel)), ("server", (self.server_tunnel,))):
            outer, inner = self.epolls[side] = select.epoll(), select.epoll()
            outer.register(inner.fileno(), select.EPOLLIN)
            for each in watched:
                inner.register(each.fileno(), _READ)

    def close(self) -> None:
        """Close all."""
        for each in (self.door, self.server, self.client_tunnel, self.server_tunnel, self.netlink):
            each.close()
        for outer, inner in self.epolls.values():
            outer.close()
            inner.close()


def connect_once(sides: Sides, timer: Timer) -> None:
    """Carry one connection as both sidecars do; what program and server call isn't counted."""
    call, room = timer.call, memoryview(bytearray(16 * 1024))
    program = socket.create_connection(sides.door.getsockname())
    program.sendall(bytes(_REQUEST))

    def wake(side: str) -> None:
        for epoll in sides.epolls[side]:
            if not call(side, "epoll_wait", epoll.poll, _PATIENCE_S, 256):
                raise RuntimeError(f"nothing has arrived at the {side}'s sidecar")

    def look_up(side: str, ours: Endpoint, theirs: Endpoint) -> None:
        call(side, "sock_diag: one socket", sides.netlink.sendto, build_lookup(ours, theirs, sequence=1), (0, 0))
        call(side, "sock_diag: one socket", sides.netlink.recv, MAX_REPLY_BYTES)

    def read_record(side: str, tunnel: socket.socket, size: int) -> None:
        call(side, "read a record", tunnel.recv_into, room, _RECORD_HEADER)
        call(side, "read a record", tunnel.recv_into, room, size - _RECORD_HEADER)

    # The client's sidecar accepts, attests, and opens a turn of the tunnel with what the program has sent.
    wake("client")
    descriptor, name = call("client", "accept", sides.door._accept)  # type: ignore[attr-defined]  # As the accept loop.
    application = call(
        "client", "getsockname", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 6, descriptor)
    )
    call("client", "ioctl", application.setblocking, False)
    look_up("client", name, sides.door.getsockname())
    call("client", "getrandom", os.urandom, CONNECTION_ID_BYTES)
    call("client", "getsockopt", application.getsockopt, socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    _wait(application, select.POLLIN)
    call("client", "read an application", application.recv_into, room)
    call("client", "write a record", sides.client_tunnel.send, room[:_OPENING])
    call("client", "epoll_ctl", sides.epolls["client"][1].register, application.fileno(), _READ)
    # The server's attests the listeners and dials.
    wake("server")
    read_record("server", sides.server_tunnel, _OPENING)
    port = sides.server.getsockname()[1]
    call("server", "sock_diag: all listeners", sides.netlink.sendto, build_listener_dump(port, sequence=1), (0, 0))
    reply = b""
    while not reply or not parse_reply(reply, sequence=1).is_done:
        reply = call("server", "sock_diag: all listeners", sides.netlink.recv, MAX_REPLY_BYTES)
    kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    onward = call("server", "socket", socket.socket, socket.AF_INET, kind)
    call("server", "setsockopt", onward.setsockopt, socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    call("server", "setsockopt", keep_alive, onward, calls=5)
    for _ in range(2):  # The second one tells that the first one has connected.
        call("server", "connect", onward.connect_ex, sides.server.getsockname())
        _wait(onward, select.POLLOUT)
    call("server", "getpeername", onward.getpeername)
    local = call("server", "getsockname", onward.getsockname)
    call("server", "epoll_ctl", sides.epolls["server"][1].register, onward.fileno(), _READ)
    call("server", "write an application", onward.send, room[:_REQUEST])
    served, _ = sides.server.accept()
    served.recv_into(room)
    served.sendall(bytes(_ANSWER))
    # The answer goes back.
    wake("server")
    look_up("server", sides.server.getsockname(), local)
    call("server", "read an application", onward.recv_into, room)
    call("server", "write a record", sides.server_tunnel.send, room[:_ANSWER_RECORD])
    wake("client")
    read_record("client", sides.client_tunnel, _ANSWER_RECORD)
    call("client", "write an application", application.send, room[:_ANSWER])
    program.recv_into(room)
    program.close()
    # The program's end, the server's, and that of both connections.
    wake("client")
    call("client", "read an application", application.recv_into, room)
    call("client", "write a record", sides.client_tunnel.send, room[:_END_RECORD])
    call("client", "epoll_ctl", sides.epolls["client"][1].unregister, application.fileno())
    wake("server")
    read_record("server", sides.server_tunnel, _END_RECORD)
    call("server", "shutdown", onward.shutdown, socket.SHUT_WR)
    served.recv_into(room)
    served.close()
    wake("server")
    call("server", "read an application", onward.recv_into, room)
    call("server", "write a record", sides.server_tunnel.send, room[:_END_RECORD])
    call("server", "epoll_ctl", sides.epolls["server"][1].unregister, onward.fileno())
    call("server", "close", onward.close)
    wake("client")
    read_record("client", sides.client_tunnel, _END_RECORD)
    call("client", "shutdown", application.shutdown, socket.SHUT_WR)
    call("client", "close", application.close)
    for side, turns in _TURNS.items():
        for _ in range(turns):
            call(side, "epoll_wait", sides.epolls[side][0].poll, 0, 256)
    timer.end_round()


def _wait(connection: socket.socket, event: int) -> None:
    poll = select.poll()
    poll.register(connection, event)
    poll.poll(_PATIENCE_S * 1000)


def measure(connections: int) -> Timer:
    """Make so many connections, one after another."""
    timer, sides = Timer(), Sides()
    try:
        for _ in range(connections):
            connect_once(sides, timer)
    finally:
        sides.close()
    return timer


def print_outcome(console: Console, timer: Timer) -> None:
    """Print each call's number and microseconds at either side, the dearest first."""
    names = sorted({name for _, name in timer.counts}, key=lambda name: -_sum_of(timer, name))
    table = Table("call", "client's sidecar", "µs", "server's", "µs", title=f"{len(timer.rounds)} connections")
    for name in names:
        table.add_row(name, *_describe(timer, "client", name), *_describe(timer, "server", name))
    table.add_section()
    sums = [(sum(timer.counts.get((side, name), 0) for name in names), _sum_side(timer, side)) for side in _TURNS]
    table.add_row("sum", *(text for count, us in sums for text in (str(count), f"{us:.0f}")))
    console.print(table)
    console.print(f"the least system call, with the timer's own reading: {timer.least_s * 1e6:.2f} µs")


def _describe(timer: Timer, side: str, name: str) -> tuple[str, str]:
    count = timer.counts.get((side, name), 0)
    return (str(count), f"{timer.least((side, name)) * 1e6:.1f}") if count else ("", "")


def _sum_of(timer: Timer, name: str) -> float:
    return sum(timer.least(step) for step in timer.counts if step[1] == name)


def _sum_side(timer: Timer, side: str) -> float:
    return sum(timer.least(step) for step in timer.counts if step[0] == side) * 1e6


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.system_calls", description=__doc__.partition(":")[0])
    parser.add_argument("--connections", type=int, default=2000)
    options = parser.parse_args(arguments)
    print_outcome(Console(width=_TABLE_WIDTH), measure(options.connections))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
