"""Accepts connections on listening sockets, in batches, and hands each to its story.

Belongs here: readiness, batches, back-off, the bound on live connections. Doesn't: what becomes of a connection.
asyncio's own accept loop spins when descriptors run out (thousands of errors a second), so this one owns the readiness
callback and pauses instead.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Callable

from sidecar.capture.original_destination import normalise_endpoint
from sidecar.slices import SLICE_S
from sidecar.sockets.address import Endpoint
from sidecar.sockets.liveness import keep_alive

BACKLOG = 4096
# Each connection's story begins in the same turn of the loop, and costs as much again as the look at its program.
BATCH = 8
_FIRST_PAUSE_S = 0.05
_LAST_PAUSE_S = 1.0
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# accept(2): errors of a connection that died in the queue; the next one may be sound.
_PASSING = frozenset(
    {errno.ECONNABORTED, errno.EPERM, errno.EPROTO, errno.ENETDOWN, errno.ENOPROTOOPT, errno.EHOSTDOWN,
     errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH, errno.EINTR, errno.ETIMEDOUT, errno.ECONNRESET}
)  # fmt: skip

Accepted = Callable[[socket.socket, Endpoint], None]
Paused = Callable[[OSError, float], object]


def open_listener(endpoint: Endpoint, *, mark: int = 0) -> socket.socket:
    """Open a listening TCP socket on exactly this address; ``0.0.0.0`` and ``::`` each mean their own family only.

    Raises:
        OSError: the address can't be had (in use, not of this machine, not permitted).
    """
    family = socket.AF_INET6 if ":" in endpoint[0] else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # Accepted sockets inherit both.
        keep_alive(listener)
        if mark:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        listener.bind(endpoint)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


class AcceptLoop:
    """Accepts on one listening socket until it is closed.

    Arguments:
        listener: listening and non-blocking; this object closes it.
        on_accept: takes over the accepted, non-blocking socket and its peer; must not wait.
        on_pause: told when descriptors or memory ran out, and for how many seconds accepting rests.
    """

    def __init__(self, listener: socket.socket, on_accept: Accepted, *, on_pause: Paused) -> None:
        self._listener = listener
        # ``socket.accept`` makes enumeration members of the first two for each connection, and asks for the third.
        self._kind = int(listener.family), int(listener.type), socket.IPPROTO_TCP
        self._on_accept = on_accept
        self._on_pause = on_pause
        self._pause_s = _FIRST_PAUSE_S
        self._waiting: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.local: Endpoint = normalise_endpoint(listener.getsockname())

    def start(self) -> None:
        """Begin to accept on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Stop accepting and close the listener. Connections still in its queue are reset by the kernel."""
        if self._listener.fileno() < 0:
            return
        if self._waiting is not None:
            self._waiting.cancel()
        if self._loop is not None:
            self._loop.remove_reader(self._listener.fileno())
        self._listener.close()

    def _accept(self) -> None:
        until = time.perf_counter() + SLICE_S
        accept = self._listener._accept  # type: ignore[attr-defined]  # What ``socket.accept`` calls; typeshed omits it.
        for number in range(BATCH):
            if number and time.perf_counter() >= until:
                return  # The rest wait in the kernel, which says so again: first looks at programs take their time.
            try:
                descriptor, name = accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(error)
                    return
                if error.errno in _PASSING:
                    continue
                raise
            self._pause_s = _FIRST_PAUSE_S
            connection = socket.socket(*self._kind, fileno=descriptor)
            connection.setblocking(False)
            self._on_accept(connection, normalise_endpoint(name))

    def _pause(self, error: OSError) -> None:
        assert self._loop is not None
        self._loop.remove_reader(self._listener.fileno())
        self._on_pause(error, self._pause_s)
        self._waiting = self._loop.call_later(self._pause_s, self._resume)
        self._pause_s = min(self._pause_s * 2, _LAST_PAUSE_S)

    def _resume(self) -> None:
        assert self._loop is not None
        self._waiting = None
        self._loop.add_reader(self._listener.fileno(), self._accept)
        self._accept()
