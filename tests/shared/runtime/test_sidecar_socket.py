"""Asking a sidecar: which ones listen, and what is made of answers that are none."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from shared.model.errors import NotFoundError, UnavailableError
from shared.model.wire.sidecar_admin import SOCKET_PREFIX, Level, LevelQuestion, encode_line
from shared.runtime.sidecar_socket import ask_sidecar, choose_sidecar, list_sidecars

NAME = f"asked-{os.getpid()}"


@contextmanager
def answering(answer: bytes) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{SOCKET_PREFIX}{NAME}")
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join()


def test_a_listening_sidecar_is_found_and_asked() -> None:
    with answering(encode_line(Level(instance=NAME, level="info"))):
        assert NAME in list_sidecars()
        assert choose_sidecar(NAME) == NAME
        assert ask_sidecar(NAME, LevelQuestion(), expect=Level) == Level(instance=NAME, level="info")
    assert NAME not in list_sidecars()
    with pytest.raises(NotFoundError, match=f"no sidecar {NAME}"):
        choose_sidecar(NAME)
    with pytest.raises(UnavailableError, match="doesn't answer"):
        ask_sidecar(NAME, LevelQuestion(), expect=Level)


@pytest.mark.parametrize("answer", [b"", b"{}\n", b"\xff\n"])
def test_what_is_no_answer_is_an_error(answer: bytes) -> None:
    with answering(answer), pytest.raises(UnavailableError, match="doesn't speak this protocol"):
        ask_sidecar(NAME, LevelQuestion(), expect=Level)
