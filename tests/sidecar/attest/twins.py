"""Two connected sockets with one 4-tuple: the kernel allows it where the first one is bound to a network device."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from sidecar.sockets.address import Endpoint

_DEADLINE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Twins:
    """The sockets, and the accepted end of the second one's connection.

    Attributes:
        first: bound to the device ``lo``; its other end was reset when the second one connected, and it doesn't know.
        second: not bound.
    """

    first: socket.socket
    second: socket.socket
    accepted: socket.socket
    source: Endpoint
    destination: Endpoint


@contextmanager
def open_twins(host: str, first: int = socket.AF_INET, second: int = socket.AF_INET) -> Iterator[Twins]:
    """Connect two sockets from the same port to a listener at this loopback address.

    Arguments:
        first, second: their address families; of an IPv6 socket to an IPv4 address, the address is v4-mapped.
    """
    with ExitStack() as opened:
        server = opened.enter_context(
            socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        )
        server.settimeout(_DEADLINE_S)
        port = server.getsockname()[1]
        one = opened.enter_context(_make(first))
        one.bind((_address(first, host), 0))
        one.connect((_address(first, host), port))
        lost, name = server.accept()
        opened.enter_context(lost)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
        two = opened.enter_context(_make(second))
        two.bind((_address(second, host), name[1]))
        two.setblocking(False)
        two.connect_ex((_address(second, host), port))  # Its first SYN ends the connection of the other one.
        accepted, _ = server.accept()
        opened.enter_context(accepted)
        if not select.select([], [two], [], _DEADLINE_S)[1]:
            raise TimeoutError("the second socket isn't connected")
        yield Twins(first=one, second=two, accepted=accepted, source=(host, name[1]), destination=(host, port))


def _make(family: int) -> socket.socket:
    made = socket.socket(family)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return made


def _address(family: int, host: str) -> str:
    return f"::ffff:{host}" if family == socket.AF_INET6 and ":" not in host else host
