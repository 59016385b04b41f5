"""What a running subject is to the works: where to connect, and whose CPU and memory count. Pure.

Doesn't belong here: how a subject starts; that is one module each.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

Address = tuple[str, int]


def address_text(address: Address) -> str:
    """Return ``HOST:PORT``."""
    return f"{address[0]}:{address[1]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backends:
    """What stands behind every subject: a web server and a sink for bulk data."""

    http: Address
    sink: Address


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
