"""A server's workers to be attested: ``python -m bench.holding_program HOST PORT WORKERS``.

Each is forked and connects; when the other side has looked (one byte) it connects once more, and ends when that was
looked at.
"""

from __future__ import annotations

import os
import socket
import sys

_TIMEOUT_S = 120.0


def run(address: str, port: int, workers: int) -> None:
    """Fork the workers, and wait for them."""
    for _ in range(workers):
        if not os.fork():
            for _ in range(2):
                with socket.create_connection((address, port), timeout=_TIMEOUT_S) as connection:
                    connection.recv(1)
            os._exit(0)
    for _ in range(workers):
        os.wait()


if __name__ == "__main__":
    run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
