"""The steps of a TLS handshake on a raw non-blocking socket, with deadlines and reason codes for failures.

Belongs here: the peek at the ClientHello, the handshake's I/O. Doesn't: what the contexts demand (``contexts.py``),
what the peer presented (``presented.py``), and whole handshakes: a tunnel's (``sidecar/tunnel/handshake.py``), plain
mTLS (``foreign_handshake.py``).
"""

from __future__ import annotations

import asyncio
import socket
from enum import Enum, auto
from typing import Protocol

from OpenSSL import SSL

from shared.model.errors import ProtocolError, VerificationError
from shared.model.policy.reasons import Reason
from sidecar.sockets.polling import poller_of
from sidecar.tls.client_hello import (
    MAX_CLIENT_HELLO_BYTES,
    ClientHello,
    NeedsMore,
    parse_client_hello,
)
from sidecar.tls.handshake_workers import compute
from sidecar.tls.role import Role


class HandshakeError(VerificationError):
    """The peer's handshake failed; ``reason`` says how."""

    code = "handshake_failed"


async def peek_client_hello(
    loop: asyncio.AbstractEventLoop, connection: socket.socket, *, timeout_s: float
) -> ClientHello:
    """Read the ClientHello without taking it off the connection (recv(2), ``MSG_PEEK``).

    Raises:
        HandshakeError: ``handshake_failed`` for something else than a ClientHello, ``deadline_exceeded``.
    """
    try:
        outcome = _peek(connection, 1)
        if isinstance(outcome, NeedsMore):
            async with asyncio.timeout(timeout_s):
                return await _await_client_hello(loop, connection, outcome)
        return outcome
    except TimeoutError as error:
        raise HandshakeError("no whole ClientHello in time", reason=Reason.DEADLINE_EXCEEDED) from error
    except (ProtocolError, OSError) as error:
        raise HandshakeError(str(error), reason=Reason.HANDSHAKE_FAILED) from error


async def _await_client_hello(
    loop: asyncio.AbstractEventLoop, connection: socket.socket, outcome: NeedsMore
) -> ClientHello:
    with poller_of(loop).watch(connection) as watch:
        while True:
            if (wanted := outcome.total_bytes) > 1:
                # What is peeked stays readable: without a low-water mark (socket(7)) the loop would spin on it.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wanted)
            await watch.wait_readable()
            found = _peek(connection, wanted)
            if isinstance(found, ClientHello):
                if wanted > 1:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
                return found
            outcome = found


def _peek(connection: socket.socket, wanted: int) -> ClientHello | NeedsMore:
    """Look at what has come; ``wanted`` bytes had to be there before it is looked at again."""
    try:
        data = connection.recv(MAX_CLIENT_HELLO_BYTES, socket.MSG_PEEK)
    except BlockingIOError:
        return NeedsMore(total_bytes=wanted)
    if len(data) < wanted:
        raise ProtocolError("the connection ended inside its ClientHello")
    return parse_client_hello(data)


class Course(Protocol):
    """Who follows a handshake's steps."""

    def is_next_step_short(self, connection: socket.socket) -> bool:
        """Tell, once before each step, whether it computes little."""
        ...

    def note_step(self) -> None:
        """After each step that didn't fail; in the thread that has computed it."""
        ...


async def drive_handshake(
    loop: asyncio.AbstractEventLoop,
    connection: socket.socket,
    tls: SSL.Connection,
    role: Role,
    *,
    timeout_s: float,
    course: Course | None = None,
) -> None:
    """Do the handshake's I/O; what it computes is computed beside the event loop, but for short steps.

    Arguments:
        course: is told of each step, and which ones are short; None: none is.

    Raises:
        TimeoutError: the peer took longer than ``timeout_s``; what waits for our own computing doesn't count.
        SSL.Error, ValueError, OSError: it failed.
    """

    def advance() -> _Wants:
        try:
            tls.do_handshake()
        except SSL.WantReadError:
            return _Wants.READ
        except SSL.WantWriteError:
            return _Wants.WRITE
        return _Wants.NOTHING

    def advance_and_note() -> _Wants:
        wants = advance()
        if course is not None:
            course.note_step()
        return wants

    left_s, is_first = timeout_s, True
    with poller_of(loop).watch(connection) as watch:
        while True:
            is_short = course is not None and course.is_next_step_short(connection)
            wants = await compute(loop, role, advance_and_note, is_first=is_first, is_short=is_short)
            if wants is _Wants.NOTHING:
                return
            is_first = False
            began = loop.time()
            if wants is _Wants.READ:
                await watch.wait_readable(left_s)
            else:
                await watch.wait_writable(left_s)
            left_s -= loop.time() - began


class _Wants(Enum):
    NOTHING = auto()
    READ = auto()
    WRITE = auto()
