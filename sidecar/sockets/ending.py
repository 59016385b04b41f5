"""Ends TCP connections, or what is written to them: by reset, or by closing, once the peer has what was written before.

Belongs here: that, with its deadlines. Doesn't: which ending a connection gets (the stories and the pumps).
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from typing import Final
from weakref import ref

from sidecar.sockets.polling import poller_of

DELIVERY_DEADLINE_S: Final = 5.0
# Of what a peer still sends before it has read our last word: more than both kernels hold of one connection.
MAX_DISCARDED_BYTES: Final = 16 * 1024 * 1024
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)
_TCP_CLOSE: Final = 7  # include/net/tcp_states.h
# Those whose FIN the kernel took, by descriptor: one for each at most. It counts it as a byte, and after a reset it
# doesn't tell any more that there was one. A weak set would call back into Python for each connection that ends.
_ended: dict[int, ref[socket.socket]] = {}
_unwanted: Final = bytearray(256 * 1024)


def reset(connection: socket.socket) -> None:
    """Close a connection by RST (socket(7), ``SO_LINGER`` with zero). What the kernel still holds is lost."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
    except OSError:
        pass  # It is gone already.
    connection.close()


def end_writing(connection: socket.socket) -> None:
    """Pass a half-close on: nothing more will be written to ``connection``."""
    try:
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        return  # It has gone, and no FIN was queued; reading it tells how.
    _ended[connection.fileno()] = ref(connection)


async def reset_after_delivery(
    loop: asyncio.AbstractEventLoop,
    connection: socket.socket,
    unsent: bytes = b"",
    *,
    deadline_s: float = DELIVERY_DEADLINE_S,
) -> int:
    """Close a connection by RST once its peer has what was written before: a finished response must not be lost.

    Arguments:
        unsent: is written first.
        deadline_s: after that the reset comes all the same.

    Returns:
        how many bytes of ``unsent`` the kernel took, less those that its peer's kernel has never got.
    """
    written = 0
    try:
        async with asyncio.timeout(deadline_s):
            while written < len(unsent):
                try:
                    written += connection.send(memoryview(unsent)[written:])
                except BlockingIOError:
                    with poller_of(loop).watch(connection) as watch:
                        await watch.wait_writable()
            pause_s = 0.001
            while count_undelivered(connection):
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, 0.1)
    except (TimeoutError, OSError):
        pass
    finally:
        lost = count_untaken(connection)
        reset(connection)
    return written - lost


def close_after_delivery(
    loop: asyncio.AbstractEventLoop, connection: socket.socket, *, waited_s: float = 0.0, discarded: int = 0
) -> None:
    """Close a connection once its peer has read what was written, which its end tells; after a deadline all the same.

    A close with unread data, or one that data follows, would reset the connection. A peer whose write meets that before
    it has read what was written last has lost it: after a failed write OpenSSL reads nothing more (since 4.0). So what
    still comes is discarded, up to ``MAX_DISCARDED_BYTES``, for at most ``DELIVERY_DEADLINE_S``.
    """
    try:
        if not waited_s:
            connection.shutdown(socket.SHUT_WR)
        discarded, has_ended = _discard(connection, discarded)
        is_over = has_ended and not count_undelivered(connection)
        if not is_over and waited_s < DELIVERY_DEADLINE_S and discarded < MAX_DISCARDED_BYTES:
            pause_s = min(max(0.001, waited_s), DELIVERY_DEADLINE_S - waited_s)
            loop.call_later(
                pause_s,
                lambda: close_after_delivery(loop, connection, waited_s=waited_s + pause_s, discarded=discarded),
            )
            return
    except OSError:
        pass  # It is gone already.
    connection.close()


def _discard(connection: socket.socket, discarded: int) -> tuple[int, bool]:
    """Discard what has come; return how much that is by now, and whether nothing more comes.

    Raises:
        OSError: the connection broke.
    """
    while discarded < MAX_DISCARDED_BYTES:
        try:
            count = connection.recv_into(_unwanted, len(_unwanted), socket.MSG_TRUNC)  # Not copied: tcp(7).
        except (BlockingIOError, InterruptedError):
            return discarded, False
        if not count:
            return discarded, True
        discarded += count
    return discarded, False


def count_untaken(connection: socket.socket) -> int:
    """Return how many bytes of those written the peer's kernel hasn't acknowledged, or never will.

    A FIN is none of them: it takes a sequence number after the last byte, so that it's counted while anything is. An
    acknowledgement that the peer's kernel still put off when it sent a reset never comes: its bytes count as untaken.
    """
    try:
        packed: bytes = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    except (OSError, ValueError):
        return 0  # It has been closed here.
    count = int(struct.unpack("i", packed)[0])
    return count - 1 if count and _has_ended(connection) else count


def _has_ended(connection: socket.socket) -> bool:
    ended = _ended.get(connection.fileno())
    return ended is not None and ended() is connection


def count_undelivered(connection: socket.socket) -> int:
    """Return how many bytes the kernel still holds for the peer (tcp(7), ``SIOCOUTQ``), a FIN included.

    None for a dead connection.
    """
    packed: bytes = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    count = int(struct.unpack("i", packed)[0])
    # After a reset the count stays what it was, though nothing is held any more.
    if count and connection.family != socket.AF_UNIX:
        state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        return 0 if state[0] == _TCP_CLOSE else count
    return count
