"""Serves the sidecar's admin socket: a Unix socket without a file, for the sidecar's own user and root alone. I/O.

Belongs here: the socket, who may ask, bounds and deadlines. Doesn't: the answers (``answers.py``), the asking side
(``shared/runtime/sidecar_socket.py``).

An abstract name needs no writable folder, which a pod's sidecar hasn't. It has no mode either: the kernel says who
connected (unix(7), ``SO_PEERCRED``). In a pod root in another container is a stranger, and may become any user: there
the other process must also be in the sidecar's own container, by its mount namespace (mount_namespaces(7)).
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from typing import Final

import msgspec

from shared.model.errors import MachineError, RefusedError
from shared.model.wire.sidecar_admin import (
    MAX_QUESTION_BYTES,
    SOCKET_PREFIX,
    Answer,
    Failure,
    Question,
    decode_question,
    encode_line,
)
from shared.runtime.tasks import Tasks

MAX_CLIENTS: Final = 8
_QUESTION_S: Final = 5.0
_REFUSED_S: Final = 1.0
_ANSWER_S: Final = 10.0
_CREDENTIALS: Final = struct.Struct("iII")  # struct ucred: pid, uid, gid.


def open_admin_listener(instance: str) -> socket.socket:
    """Open the listening socket.

    Raises:
        MachineError: another process has the name.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(f"\0{SOCKET_PREFIX}{instance}")
        listener.listen(MAX_CLIENTS)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise MachineError(f"the admin socket of {instance} can't be had: {error.strerror}") from error
    return listener


def check_peer(connection: socket.socket, *, is_own_container: bool) -> None:
    """Check that the process which connected may ask.

    Arguments:
        is_own_container: it must also be in this process's mount namespace.

    What this does *not* verify: what runs in that process, or to whom it passes the descriptor.

    Raises:
        RefusedError: it may not.
    """
    pid, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    if uid not in (0, os.geteuid()):
        raise RefusedError("only root and the sidecar's own user may ask")
    if not is_own_container:
        return
    try:
        is_own = os.path.samestat(os.stat(f"/proc/{pid}/ns/mnt"), os.stat("/proc/self/ns/mnt"))
    except OSError as error:
        raise RefusedError("the asking process can't be looked at") from error
    if not is_own:
        raise RefusedError("only a process in the sidecar's container may ask")


class AdminSocket:
    """Answers on a listening socket until it is closed.

    Arguments:
        listener: taken over.
        answer: answers one question.
        is_own_container: see ``check_peer``.
        tasks: of its clients, at most ``MAX_CLIENTS``.
    """

    def __init__(
        self, listener: socket.socket, *, answer: Callable[[Question], Answer], is_own_container: bool, tasks: Tasks
    ) -> None:
        self._listener = listener
        self._answer = answer
        self._is_own_container = is_own_container
        self._tasks = tasks

    def start(self) -> None:
        """Begin to answer."""
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def close(self) -> None:
        """Stop accepting."""
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # It is gone again; or there are no descriptors, and the next tick may find some.
        connection.setblocking(False)
        if len(self._tasks) >= MAX_CLIENTS:
            connection.close()
            return
        task = self._tasks.spawn(self._serve(connection), name="admin client")
        task.add_done_callback(lambda _: connection.close())

    async def _serve(self, connection: socket.socket) -> None:
        loop, refusal = asyncio.get_running_loop(), None
        answer: Answer
        try:
            check_peer(connection, is_own_container=self._is_own_container)
        except RefusedError as error:
            refusal = Failure(message=error.message)
        try:
            # A refused question is read as well: closed before it, the connection would lose the answer.
            async with asyncio.timeout(_QUESTION_S if refusal is None else _REFUSED_S):
                line = await _read_line(loop, connection)
            answer = refusal or self._answer(decode_question(line))
        except RefusedError as error:
            answer = Failure(message=error.message, hint=error.hint)
        except msgspec.DecodeError as error:
            answer = Failure(message=f"not a question: {error}"[:300])
        except (OSError, EOFError, TimeoutError):
            return
        try:
            async with asyncio.timeout(_ANSWER_S):
                await loop.sock_sendall(connection, encode_line(answer))
        except (OSError, TimeoutError):
            return


async def _read_line(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> bytes:
    data = b""
    while b"\n" not in data:
        part = await loop.sock_recv(connection, MAX_QUESTION_BYTES)
        if not part or len(data) + len(part) > MAX_QUESTION_BYTES:
            raise EOFError("no question")
        data += part
    return data.partition(b"\n")[0]
