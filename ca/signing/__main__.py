"""``python -m ca.signing NUMBER``: the CA's signing process, which the CA starts by itself.

It has one socket, the descriptor of that number, with the CA at its other end, and ends when the CA does. It opens
nothing else, draws and decides nothing, and has the one key that the CA handed over last.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Final

import msgspec

from ca.authority.founding import Authority
from ca.signing.orders import Answer, FrameReader, Orders, write_frame
from ca.signing.work import fill, read_handover
from shared.runtime.interpreter import quicken_enumerations, spare_what_lives
from shared.runtime.memory import forbid_dumps

_READ_BYTES: Final = 262_144
# The CA goes on with these while the next are signed.
_GROUP: Final = 8
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)


def main(arguments: Sequence[str]) -> int:
    """Sign what is ordered until the CA is gone."""
    # The CA's end closes the socket, which ends this process where it runs: the signal does where it is stopped.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    forbid_dumps()
    # What ends the whole group of processes, as a terminal or a supervisor does, is for the CA.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    quicken_enumerations()
    with socket.socket(fileno=int(arguments[0])) as connection, contextlib.suppress(ConnectionError):
        serve(connection)
    return 0


def serve(connection: socket.socket) -> None:
    """Fill orders until the other end is closed.

    Raises:
        ConnectionError: it is gone.
        ProtocolError, msgspec.DecodeError, ValueError: it isn't the CA of this release.
    """
    reader, decoder = FrameReader(), msgspec.msgpack.Decoder(Orders)
    authority: Authority | None = None
    while data := connection.recv(_READ_BYTES):
        for frame in reader.take(data):
            batch = decoder.decode(frame)
            if batch.authority is not None:
                if authority is None:
                    spare_what_lives()
                authority = read_handover(batch.authority)
            if authority is None:
                raise ValueError("an order before any authority")
            if not batch.orders:
                connection.sendall(write_frame([]))
            for begin in range(0, len(batch.orders), _GROUP):
                answers: list[Answer] = [fill(order, authority) for order in batch.orders[begin : begin + _GROUP]]
                connection.sendall(write_frame(answers))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
