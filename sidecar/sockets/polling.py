"""Which sockets of the data path can be read or written: one epoll instance of the sidecar's own, watched by the loop.

Belongs here: registering, forgetting, calling back. Doesn't: reading and writing. The loop's ``add_reader`` and
``remove_reader`` serve sockets that live long; under uvloop they cost five and three system calls (libuv tries each
descriptor first, sets it non-blocking and forgets it twice), and a short connection needs several of both. Here
watching costs one call, and ceasing to watch none unless an event comes that no callback waits for.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable
from functools import partial
from typing import Final, Self
from weakref import WeakKeyDictionary

# More than are ready at once in practice; what is left over is reported by the next call.
_MAX_EVENTS: Final = 256
_READ: Final = select.EPOLLIN | select.EPOLLRDHUP
_WRITE: Final = select.EPOLLOUT
_BROKEN: Final = select.EPOLLERR | select.EPOLLHUP
_ENDING: Final = select.EPOLLRDHUP | _BROKEN

Callback = Callable[[], None]


class Poller:
    """The sockets that one event loop's data path waits for; level-triggered, as ``add_reader`` is."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._epoll = select.epoll(flags=select.EPOLL_CLOEXEC)
        self._watches: dict[int, Watch] = {}
        loop.add_reader(self.fileno(), self._dispatch)

    def fileno(self) -> int:
        """Return the descriptor that the loop watches."""
        return self._epoll.fileno()

    def poll_now(self) -> list[tuple[int, int]]:
        """Return which descriptors are ready, and for what; never waits."""
        return self._epoll.poll(0, _MAX_EVENTS)

    def watch(self, connection: socket.socket) -> Watch:
        """Return a watch on a socket, which waits for nothing yet. Close it before the socket is closed."""
        fd = connection.fileno()
        watch = self._watches[fd] = Watch(self, fd)
        return watch

    def forget(self, fd: int) -> None:
        """Report a descriptor no more, if it is there."""
        try:
            self._epoll.unregister(fd)
        except OSError:  # Not ``suppress``, whose object costs more than the call: most connections end here.
            pass

    def _register(self, fd: int, mask: int) -> None:
        try:
            self._epoll.register(fd, mask)
        except FileExistsError:  # An earlier watch on this socket has left it there.
            self._epoll.modify(fd, mask)

    def _dispatch(self) -> None:
        watches = self._watches
        for fd, events in self.poll_now():
            watch = watches.get(fd)
            if watch is None:
                # Its watch was closed and it lives on; or a callback before this one has closed the socket itself.
                self.forget(fd)
            elif events == select.EPOLLIN and (read := watch._on_readable) is not None:
                # By far the most events: spared what ``notice`` looks at.
                watch.is_ending = False
                read()
                if watch._on_readable is None:
                    watch.settle()
            else:
                watch.notice(events)


class Watch:
    """One socket's readiness, for one owner.

    Attributes:
        is_ending: as of the event that is being handled: no bytes come after those that the kernel already holds.
    """

    __slots__ = (
        "_fd", "_held", "_is_lent", "_mask", "_on_held", "_on_readable", "_on_writable", "_poller", "is_ending",
    )  # fmt: skip

    def __init__(self, poller: Poller, fd: int) -> None:
        self._poller = poller
        self._fd = fd
        self._mask = 0
        self._on_readable: Callback | None = None
        self._on_writable: Callback | None = None
        # While reads are held: whom to tell that the socket can be read, and who would read it.
        self._on_held: Callback | None = None
        self._held: Callback | None = None
        self._is_lent = False
        self.is_ending = False

    def hold_reading(self, callback: Callback) -> None:
        """Until ``release_reading``, call this once, when the socket can first be read, instead of who would read it.

        Arguments:
            callback: before the first ``start_reading``.
        """
        self._on_held = callback

    def release_reading(self) -> None:
        """Let the socket be read."""
        self._on_held = None
        held, self._held = self._held, None
        if held is not None and self._poller._watches.get(self._fd) is self:
            self.start_reading(held)

    def _tell_held(self) -> None:
        self._on_readable = None
        if self._on_held is not None:
            self._on_held()
        self._read_if_released()

    def _read_if_released(self) -> None:
        if self._on_readable is not None:
            self._on_readable()

    def start_reading(self, callback: Callback) -> None:
        """Call ``callback`` whenever the socket can be read, has ended or is broken."""
        if self._on_held is not None:
            self._held, callback = callback, self._tell_held
        self._on_readable = callback
        if not self._mask & _READ:
            self._wait_for(self._mask | _READ)

    def stop_reading(self) -> None:
        """Call back no more. The registration stays until an event comes, which mostly none does."""
        self._on_readable = self._held = None

    def start_writing(self, callback: Callback) -> None:
        """Call ``callback`` whenever the socket can be written or is broken."""
        self._on_writable = callback
        if not self._mask & _WRITE:
            self._wait_for(self._mask | _WRITE)

    def stop_writing(self) -> None:
        """Call back no more; as ``stop_reading``."""
        self._on_writable = None

    @property
    def is_reading(self) -> bool:
        """Whether anybody is told when the socket can be read, or who holds reads is."""
        return self._on_readable is not None

    @property
    def is_held(self) -> bool:
        """Whether reads are held."""
        return self._on_held is not None

    def lend(self) -> None:
        """Wait for nothing until ``regain``: another thread waits for this socket, which stays open until then."""
        self._is_lent = True
        # An event that was reported already isn't this one's any more.
        del self._poller._watches[self._fd]
        self._poller.forget(self._fd)
        self._mask = 0

    def regain(self) -> None:
        """Wait again for what was waited for."""
        if not self._is_lent:
            return
        self._is_lent = False
        self._poller._watches[self._fd] = self
        wanted = (_READ if self._on_readable is not None else 0) | (_WRITE if self._on_writable is not None else 0)
        if wanted:
            self._wait_for(wanted)

    async def wait_readable(self, timeout_s: float | None = None) -> None:
        """Wait until the socket can be read; it may turn out that it can't.

        Arguments:
            timeout_s: None: the caller sets the deadline.

        Raises:
            TimeoutError: it can't be read by then.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.start_reading(partial(_set_done, future))
        try:
            await _wait(future, timeout_s)
        finally:
            self.stop_reading()

    async def wait_writable(self, timeout_s: float | None = None) -> None:
        """Wait until the socket can be written; as ``wait_readable``."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.start_writing(partial(_set_done, future))
        try:
            await _wait(future, timeout_s)
        finally:
            self.stop_writing()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget the socket. Closing it takes it out of epoll; should it live on, its next event does."""
        self._on_readable = self._on_writable = self._held = self._on_held = None
        self._is_lent = False
        watches = self._poller._watches
        if watches.get(self._fd) is self:
            del watches[self._fd]
            if self.is_ending and self._mask:
                # It would be reported again before its owner closes it: a turn of the loop for nothing.
                self._mask = 0
                self._poller.forget(self._fd)

    def notice(self, events: int) -> None:
        """Call back those that wait for one of these events."""
        if events & (_READ | _BROKEN) and self._on_readable is not None:
            self.is_ending = bool(events & _ENDING)
            self._on_readable()
        if events & (_WRITE | _BROKEN) and self._on_writable is not None:
            self._on_writable()
        self.settle()

    def settle(self) -> None:
        """After an event: ask for no more than is still waited for."""
        if self._poller._watches.get(self._fd) is not self:
            return  # It was closed meanwhile.
        wanted = (_READ if self._on_readable is not None else 0) | (_WRITE if self._on_writable is not None else 0)
        # A broken socket is reported whatever is asked for: without a callback it has to leave.
        if self._mask & ~wanted:
            self._wait_for(wanted)
        elif not wanted and not self._mask:
            # An earlier watch has left the registration: what nothing reads yet would be reported again and again.
            self._poller.forget(self._fd)

    def _wait_for(self, mask: int) -> None:
        poller, before, self._mask = self._poller, self._mask, mask
        if not before:
            poller._register(self._fd, mask)
        elif mask:
            poller._epoll.modify(self._fd, mask)
        else:
            poller._epoll.unregister(self._fd)


def _set_done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _wait(future: asyncio.Future[None], timeout_s: float | None) -> None:
    """Wait with a timer of the loop, which costs less than ``asyncio.timeout``: a handshake waits several times."""
    timer = None if timeout_s is None else future.get_loop().call_later(timeout_s, _set_late, future)
    try:
        await future
    finally:
        if timer is not None:
            timer.cancel()


def _set_late(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())


_pollers: WeakKeyDictionary[asyncio.AbstractEventLoop, Poller] = WeakKeyDictionary()


def poller_of(loop: asyncio.AbstractEventLoop) -> Poller:
    """Return the loop's poller, made at the first call."""
    poller = _pollers.get(loop)
    if poller is None:
        poller = _pollers[loop] = Poller(loop)
    return poller
