"""One direction of a turn: from the tunnel to the application.

Belongs here: writing to the application, keeping what it doesn't take, its half-close. Doesn't: the other direction
(``to_tunnel.py``), control frames, and when the turn ends (``tunnel_pump.py``).
"""

from __future__ import annotations

import socket
from typing import Final

from sidecar.pump.states import Flow, change_flow
from sidecar.sockets.ending import end_writing
from sidecar.tunnel.tunnel import Tunnel

_OPEN: Final = Flow.OPEN  # Looked up for all that comes.
_MAX_IOV: Final = 1024  # More buffers in one call are an error: UIO_MAXIOV, include/uapi/linux/uio.h.


class FromTunnel:
    """Writes to the application what comes from the tunnel. While ``has_rest``, the pump watches the application.

    Attributes:
        flow: what this direction is doing. While it is NEW there is no application yet.
        received: bytes that the application's kernel has taken.
        rest: what it hasn't taken yet; bounded by one read of the tunnel, or by ``MAX_EARLY_BYTES``.
    """

    __slots__ = ("_tunnel", "flow", "received", "rest")

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        self.flow = Flow.NEW
        self.received = 0
        self.rest = bytearray()

    def start(self, application: socket.socket) -> None:
        """The application is there; the pump writes the rest to it, if there is any."""
        if self.flow is Flow.NEW:
            self.flow = change_flow(self.flow, Flow.BLOCKED if self.rest else Flow.OPEN)
        elif not self.rest:
            self._end(application)

    def take(self, payloads: list[memoryview], application: socket.socket | None) -> Flow:
        """Write what came to the application, or keep it; return the flow after that.

        Raises:
            OSError: the application's connection broke.
        """
        if self._tunnel.is_holding:
            # The initiator goes on sending, and may do so up to a limit only until it sees ACCEPT.
            self._tunnel.release()
        if self.flow is not _OPEN or application is None:
            self._keep(payloads)
            return self.flow
        try:
            if len(payloads) == 1:
                total = len(payloads[0])
                count = application.send(payloads[0])
            elif len(payloads) <= _MAX_IOV:
                total = sum(map(len, payloads))
                count = application.sendmsg(payloads)
            else:
                joined = b"".join(payloads)
                total, count = len(joined), application.send(joined)
        except (BlockingIOError, InterruptedError):
            total, count = sum(map(len, payloads)), 0
        self.received += count
        if count < total:
            self.rest += b"".join(payloads)[count:]
            self.flow = change_flow(self.flow, Flow.BLOCKED)
        return self.flow

    def keep_unwritten(self, rest: bytes) -> None:
        """Keep what the compiled loop has read and the application didn't take."""
        self.rest += rest
        self.flow = change_flow(self.flow, Flow.BLOCKED)

    def _keep(self, payloads: list[memoryview]) -> None:
        if self.flow is not Flow.DROPPED:
            for payload in payloads:
                self.rest += payload

    def write_rest(self, application: socket.socket) -> bool:
        """Write what is kept; whether all of it has been written.

        Raises:
            OSError: the application's connection broke.
        """
        try:
            count = application.send(self.rest)
        except (BlockingIOError, InterruptedError):
            return False
        self.received += count
        del self.rest[:count]
        if self.rest:
            return False
        if self.flow is Flow.ENDING:
            self._end(application)
        else:
            self.flow = change_flow(self.flow, Flow.OPEN)
        return True

    def end(self, application: socket.socket | None) -> Flow:
        """Note that END has come; the application is told once it has everything."""
        if self.flow is not Flow.DROPPED:
            self.flow = change_flow(self.flow, Flow.ENDING)
            if application is not None and not self.rest:
                self._end(application)
        return self.flow

    def drop(self) -> None:
        """What came and what still comes isn't for the application: it was refused, or its connection broke."""
        if self.flow is not Flow.DROPPED and self.flow is not Flow.ENDED:
            self.flow = change_flow(self.flow, Flow.DROPPED)
        self.rest.clear()

    def stop(self) -> None:
        """The pump has finished."""
        self.flow = change_flow(self.flow, Flow.STOPPED)

    def _end(self, application: socket.socket) -> None:
        end_writing(application)
        self.flow = change_flow(self.flow, Flow.ENDED)
