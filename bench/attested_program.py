"""A program to be attested: ``python -m bench.attested_program HOST PORT HELD COUNT``.

It holds HELD connections open, as a pool would, then COUNT times opens one more, waits until the other side has looked
(one byte), and closes it.
"""

from __future__ import annotations

import socket
import sys

_TIMEOUT_S = 30.0


def run(address: str, port: int, held: int, count: int) -> None:
    """Open the connections."""
    pool = [socket.create_connection((address, port), timeout=_TIMEOUT_S) for _ in range(held)]
    for _ in range(count):
        with socket.create_connection((address, port), timeout=_TIMEOUT_S) as connection:
            connection.recv(1)
    for connection in pool:
        connection.close()


if __name__ == "__main__":
    run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
