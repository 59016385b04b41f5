"""Finds out that the other end of a TCP connection has gone without a word: keep-alive on everything that is carried.

Belongs here: the constants and their options (tcp(7)). Doesn't: what follows (the pumps see a reset), application
protocols' own keep-alive, which is bytes like others.

No TCP_USER_TIMEOUT: it also ends a connection whose living peer has kept its window shut for so long (Linux,
``tcp_probe_timer``), so that an application that reads nothing for a while would lose its connection. What is under way
to a dead node ends by the kernel's own retransmission limit (``net.ipv4.tcp_retries2``, about 15 minutes).
"""

from __future__ import annotations

import socket
from typing import Final

# An idle connection to a dead node ends after 15 + 3 * 5 seconds; a living node's kernel answers, whatever its
# programs do.
IDLE_S: Final = 15
INTERVAL_S: Final = 5
PROBES: Final = 3


def keep_alive(connection: socket.socket) -> None:
    """Have the kernel ask a silent peer whether it is still there; a listener's accepted sockets inherit it."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, INTERVAL_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
