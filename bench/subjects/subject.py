"""What a running subject is to the works: where to connect, and whose CPU and memory count. Pure.

Doesn't belong here: how a subject starts; that is one module each.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

Address = tuple[str, int]


def address_text(address: Address) -> str:
    """Return ``HOST:PORT``."""
    return f"{address[0]}:{address[1]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What lies between client sides and server sides where these, and the backends, have a namespace of their own.

    Attributes:
        client: the client sides' address on it.
        server: the server sides' and the backends'.
        enter: what the command of a program begins with that runs in the servers' namespace.
        ports: there; nobody else is in it, so that each is free. Below those that the kernel gives to connections.
    """

    client: str
    server: str
    enter: tuple[str, ...]
    ports: Iterator[int] = field(default_factory=lambda: itertools.count(20_000))


@dataclass(frozen=True, slots=True, kw_only=True)
class Backends:
    """What stands behind every subject: a web server and a sink for bulk data.

    Attributes:
        network: where a subject's server side has to run; None: beside the client side, on loopback.
    """

    http: Address
    sink: Address
    network: Network | None = None

    @property
    def enter(self) -> tuple[str, ...]:
        """What the command of a server side begins with."""
        return () if self.network is None else self.network.enter


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningSubject:
    """A pair that carries connections.

    Attributes:
        http: where a client connects to reach the web server through the pair.
        sink: the same for the sink.
        pids: the proxies' processes; their descendants count, too. A control plane doesn't: none of the subjects' is
            on the data path.
        check: raises BenchError when one of them has ended.
    """

    http: Address
    sink: Address
    pids: tuple[int, ...]
    check: Callable[[], None]


Starter = Callable[[Path, Backends], AbstractContextManager[RunningSubject]]
"""Starts a pair with its files in a directory of its own."""
