from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest

from ca import listening
from ca.listening import bind
from shared.model.errors import InputError, UnavailableError
from tests.ca.running import make_client_context, running_ca


async def test_a_peer_that_never_finishes_its_handshake_or_says_nothing_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "HANDSHAKE_DEADLINE_S", 2.0)
    monkeypatch.setattr(listening, "FIRST_REQUEST_DEADLINE_S", 2.0)
    async with running_ca(tmp_path) as services:
        host, _, port = services.listen.rpartition(":")
        context = make_client_context(services)
        request = b"GET /nowhere HTTP/1.1\r\nHost: ca\r\nConnection: close\r\n\r\n"
        for tls, words in ((None, b""), (context, b""), (context, request)):
            reader, writer = await asyncio.open_connection(host, int(port), ssl=tls)
            writer.write(words)
            async with asyncio.timeout(60):
                try:
                    assert (b"404 Not Found" in await reader.read()) == bool(words)
                except ConnectionError:
                    pass
            writer.transport.abort()


def test_a_free_port_is_found_and_one_in_use_is_named() -> None:
    with contextlib.closing(bind("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert listener.family == socket.AF_INET
        with pytest.raises(UnavailableError, match=f"127.0.0.1:{port}") as caught:
            bind("127.0.0.1", port)
    assert "another process" in caught.value.hint


def test_a_name_that_nobody_knows_is_refused() -> None:
    with pytest.raises(InputError, match="resolved"):
        bind("no-such-host.invalid", 0)
