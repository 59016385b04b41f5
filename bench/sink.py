"""The bulk work's backend: reads what is announced, answers with the count. ``python -m bench.sink HOST PORT``.

Received bytes are dropped in the kernel (``MSG_TRUNC``, tcp(7)), so that what is measured is the proxies and not this.
The length is announced, because nginx's stream proxy doesn't pass a half-close through TLS.
"""

from __future__ import annotations

import socket
import sys
import threading

from bench.load import COUNT

_READ_BYTES = 4 * 1024 * 1024


def serve(address: str, port: int) -> None:
    """Accept for ever, one thread a connection."""
    with socket.create_server((address, port), backlog=128) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_swallow, args=(connection,), daemon=True).start()


def _swallow(connection: socket.socket) -> None:
    buffer = bytearray(_READ_BYTES)
    count = 0
    with connection:
        try:
            header = connection.recv(COUNT.size, socket.MSG_WAITALL)
            if len(header) < COUNT.size:
                return
            (announced,) = COUNT.unpack(header)
            while count < announced:
                received = connection.recv_into(buffer, _READ_BYTES, socket.MSG_TRUNC)
                if not received:
                    break
                count += received
            connection.sendall(COUNT.pack(count))
        except OSError as error:
            # A measurement that failed shows at the sender; this line says why.
            print(f"sink: {error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
