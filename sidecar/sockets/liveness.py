"""Finds out that the other end of a TCP connection has gone without a word: keep-alive on everything that is carried.

Belongs here: the constants and their options (tcp(7)). Doesn't: what follows (the pumps see a reset), application
protocols' own keep-alive, which is bytes like others.

No TCP_USER_TIMEOUT: it also ends a connection whose living peer has kept its window shut for so long (Linux,
``tcp_probe_timer``), so that an application that reads nothing for a while would lose its connection. What is under way
to a dead node ends by the kernel's own number of retransmissions, and of unanswered window probes
(``net.ipv4.tcp_retries2``, 15), whose distance is bounded (``TCP_RTO_MAX_MS``, since Linux 6.15): after about a minute
instead of 15. A living peer acknowledges each, however long its window is shut. Older kernels take their 15 minutes.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from functools import cache
from typing import Final

# An idle connection to a dead node ends after 15 + 3 * 5 seconds; a living node's kernel answers, whatever its
# programs do.
IDLE_S: Final = 15
INTERVAL_S: Final = 5
PROBES: Final = 3
# 0.2 + 0.4 + … + 3.2 s, then every 5 s: 61 s for 15 retransmissions where a round trip takes less than 200 ms.
RTO_MAX_MS: Final = 5_000
_TCP_RTO_MAX_MS: Final = 44  # include/uapi/linux/tcp.h; the socket module doesn't name it yet.


def keep_alive(connection: socket.socket) -> None:
    """Have the kernel ask a silent peer whether it is still there; a listener's accepted sockets inherit it."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, INTERVAL_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
    if bounds_retransmissions():
        connection.setsockopt(socket.IPPROTO_TCP, _TCP_RTO_MAX_MS, RTO_MAX_MS)


@cache
def bounds_retransmissions() -> bool:
    """Tell whether this kernel lets a socket bound the time between its retransmissions."""
    with suppress(OSError), socket.socket() as tried:
        tried.setsockopt(socket.IPPROTO_TCP, _TCP_RTO_MAX_MS, RTO_MAX_MS)
        return True
    return False
