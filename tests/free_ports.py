"""Ports for programs that are told theirs: nobody else gets one, from here or from the kernel. I/O: binds them once.

A port that bind(0) gave and that is closed again is given to the next one who asks: another worker's server, or a
connection, which holds it for a minute after its end. These ports lie below the kernel's own range, each worker has a
part of them, and none is given twice before the part is used up.
"""

from __future__ import annotations

import itertools
import os
import random
import socket
from pathlib import Path
from typing import Final

_FIRST: Final = 20_500  # Tests in network namespaces of their own name ports below.
_PARTS: Final = 8
_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")


def _choose_part() -> range:
    """This process's ports; who runs without workers has the last part."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    number = int(worker) % (_PARTS - 1) if worker.isdecimal() else _PARTS - 1
    size = max(0, (int(_RANGE.read_text(encoding="ascii").split()[0]) - _FIRST) // _PARTS)
    return range(_FIRST + number * size, _FIRST + (number + 1) * size)


_part = _choose_part()
# Two runs beside each other have the same parts: they begin at different places.
_offsets = itertools.count(random.SystemRandom().randrange(len(_part) or 1))


def free_port(address: str = "127.0.0.1") -> int:
    """Return a port that nobody uses on an address, and that nobody else will choose."""
    for _ in _part or (0,):  # Where the kernel's range begins as low as ours, it chooses.
        port = _part[next(_offsets) % len(_part)] if _part else 0
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise RuntimeError(f"no port in {_part} is free on {address}")


__all__ = ["free_port"]
