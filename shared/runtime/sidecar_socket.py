"""Asks a sidecar on this machine through its admin socket: finding the socket, one question, one answer. Blocking I/O.

Belongs here: the asking side, which ``touchmark sidecar`` and ``python -m sidecar.administration`` share. Doesn't: what
the answers mean (``shared/model/wire/sidecar_admin.py``), or who may ask, which the sidecar decides.
"""

from __future__ import annotations

import socket
from typing import Final, TypeVar

import msgspec

from shared.model.errors import InputError, NotFoundError, RefusedError, UnavailableError
from shared.model.wire.sidecar_admin import (
    MAX_ANSWER_BYTES,
    SOCKET_PREFIX,
    Dump,
    Failure,
    Level,
    Question,
    SidecarConnections,
    decode_answer,
    encode_line,
)

T = TypeVar("T", Dump, SidecarConnections, Level)
TIMEOUT_S: Final = 10.0
_LISTENING: Final = "00010000"  # __SO_ACCEPTCON in the flags of /proc/net/unix.


def list_sidecars() -> list[str]:
    """Name the sidecars whose admin socket listens in this network namespace (proc(5), ``/proc/net/unix``)."""
    names: set[str] = set()
    try:
        with open("/proc/net/unix", encoding="utf-8", errors="replace") as file:
            for line in file:
                words = line.rstrip("\n").split(maxsplit=7)
                if len(words) == 8 and words[3] == _LISTENING and words[7].startswith(f"@{SOCKET_PREFIX}"):
                    names.add(words[7].removeprefix(f"@{SOCKET_PREFIX}").rstrip("@"))
    except OSError:
        pass
    return sorted(names)


def choose_sidecar(instance: str) -> str:
    """Return the named sidecar, or the only one.

    Raises:
        NotFoundError: there is none, or none of this name.
        InputError: there are several, and none is named.
    """
    found = list_sidecars()
    if instance:
        if instance not in found:
            raise NotFoundError(f"no sidecar {instance} listens here", hint=_list_hint(found))
        return instance
    if not found:
        raise NotFoundError(
            "no sidecar listens here", hint="run this in the sidecar's network namespace: `nsenter -t PID -n …`"
        )
    if len(found) > 1:
        raise InputError(f"{len(found)} sidecars listen here", hint=f"--instance: {', '.join(found[:20])}")
    return found[0]


def ask_sidecar(instance: str, question: Question, *, expect: type[T], timeout_s: float = TIMEOUT_S) -> T:
    """Ask the sidecar of this name; ``expect`` is the answer's type.

    Raises:
        UnavailableError: it doesn't answer, or doesn't speak this protocol.
        RefusedError: it doesn't answer this user, or can't answer.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(f"\0{SOCKET_PREFIX}{instance}")
            connection.sendall(encode_line(question))
            data = bytearray()
            while part := connection.recv(65536):
                data += part
                if len(data) > MAX_ANSWER_BYTES:
                    raise UnavailableError(f"the answer of {instance} is too long")
        except OSError as error:
            raise UnavailableError(f"{instance} doesn't answer: {error.strerror or error}") from error
    try:
        answer = decode_answer(bytes(data))
    except msgspec.DecodeError as error:
        raise UnavailableError(
            f"{instance} doesn't speak this protocol", hint="use the `touchmark` of the sidecar's release"
        ) from error
    if isinstance(answer, Failure):
        raise RefusedError(answer.message, hint=answer.hint)
    if not isinstance(answer, expect):
        raise UnavailableError(f"{instance} answers something else")
    return answer


def _list_hint(found: list[str]) -> str:
    return f"these do: {', '.join(found[:20])}" if found else "none does"
