"""Every connection that is dialled or accepted has keep-alive; what it does, ``tunnel/test_gone_peer.py`` shows."""

from __future__ import annotations

import socket

from sidecar.capture.accept_loop import open_listener
from sidecar.sockets.dial import dial_now
from sidecar.sockets.liveness import IDLE_S, INTERVAL_S, PROBES, RTO_MAX_MS, bounds_retransmissions


def test_dialled_and_accepted_connections_are_kept_alive() -> None:
    listener = open_listener(("127.0.0.1", 0))
    listener.setblocking(True)
    with listener, dial_now(listener.getsockname(), mark=0) as dialled:
        accepted, _ = listener.accept()
        with accepted:
            for each in (dialled, accepted):
                options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
                values = [each.getsockopt(socket.IPPROTO_TCP, option) for option in options]
                assert values == [IDLE_S, INTERVAL_S, PROBES]
                assert each.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                if bounds_retransmissions():
                    assert each.getsockopt(socket.IPPROTO_TCP, 44) == RTO_MAX_MS  # TCP_RTO_MAX_MS
                # It would end a connection whose application reads nothing for a while.
                assert not each.getsockopt(socket.IPPROTO_TCP, 18)  # TCP_USER_TIMEOUT
