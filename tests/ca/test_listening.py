from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from websockets.exceptions import ConnectionClosed

from ca import listening
from ca.connections import ConnectionRoom, Visitor
from ca.listening import MAX_ACCEPTED, bind, serve_tls
from ca.runtime import serve
from shared.model.errors import InputError, UnavailableError
from shared.model.wire.messages import ConnectionsReport, DirectoryEntry, LiveConnection, Lookup, encode_message
from tests.ca.running import FakeSidecar, eventually, make_client_context, running_ca

LIVE = LiveConnection(
    connection="c", tunnel="t", direction="egress", source="198.18.0.2:1", destination="198.18.0.3:2",
    source_workload="shop/web", destination_workload="shop/db", source_program="", destination_program="",
    transport="tunnel", would_deny=False, reason="allow_rule", since=0.0, bytes_sent=0, bytes_received=0,
)  # fmt: skip


async def test_a_peer_that_never_finishes_its_handshake_or_says_nothing_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_ca(tmp_path) as services:
        host, _, port = services.listen.rpartition(":")
        context = make_client_context(services)
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
        writer.write(b"GET /nowhere HTTP/1.1\r\nHost: ca\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(60):
            assert b"404 Not Found" in await reader.read()
        writer.transport.abort()
        for name, tls in (("HANDSHAKE_DEADLINE_S", None), ("FIRST_REQUEST_DEADLINE_S", context)):
            with monkeypatch.context() as hurried:
                hurried.setattr(listening, name, 0.2)
                reader, writer = await asyncio.open_connection(host, int(port), ssl=tls)
                assert await is_ended(reader)
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


async def test_of_those_who_come_at_once_few_begin_in_a_turn_and_who_has_gone_meanwhile_does_not() -> None:
    """Else thousands advance together, and none of them is served before all are."""

    class Room(ConnectionRoom):
        knocked = 0

        def knock(self, *arguments: Any, **named: Any) -> Visitor | None:
            self.knocked += 1
            return super().knock(*arguments, **named)

    room = Room(100, note_closed=lambda: None)
    many = 3 * MAX_ACCEPTED
    async with contextlib.AsyncExitStack() as stack:
        listener = bind("127.0.0.1", 0)  # Closed by the door.
        gone = socket.create_connection(listener.getsockname())
        (_, port), (_, its_port) = listener.getsockname(), gone.getsockname()
        gone.close()
        await eventually(lambda: has_been_closed(port, its_port))
        waiting = [stack.enter_context(socket.create_connection(listener.getsockname())) for _ in range(many)]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        await serve_tls(stack, web.Application(), listener, context, room=room)
        async with asyncio.timeout(60):
            while room.knocked < many:
                before = room.knocked
                await asyncio.sleep(0)  # One turn of the loop.
                assert room.knocked - before <= MAX_ACCEPTED
        for each in waiting:
            each.close()
        await eventually(lambda: len(room) == 0)
    assert room.knocked == many


def has_been_closed(port: int, peer_port: int) -> bool:
    """Tell whether the kernel knows that a connection's peer has closed it (/proc/net/tcp: 08 is TCP_CLOSE_WAIT)."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return any((f"{port:04X}", f"{peer_port:04X}", "08") == (row[1][-4:], row[2][-4:], row[3]) for row in rows)


async def is_ended(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(60):
        try:
            return await reader.read() == b""
        except OSError:
            return True


async def test_connections_that_havent_joined_are_bounded_from_their_first_moment_and_the_oldest_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "count_places", lambda _: 4)
    async with running_ca(tmp_path) as services, FakeSidecar(services) as sidecar:
        await sidecar.enrol("a")  # It has joined: it takes no place any more, and nobody takes its.
        host, _, port = services.listen.rpartition(":")
        context = make_client_context(services)
        opened = []
        try:
            for tls in (None, context) * 4:  # Half of them don't even begin their handshakes.
                opened.append(await asyncio.open_connection(host, int(port), ssl=tls))
            for reader, _ in opened[:4]:
                assert await is_ended(reader)
            assert not any(reader.at_eof() for reader, _ in opened[4:])
            text = services.metrics.render().decode()
            assert 'touchmark_ca_streams_refused_total{code="displaced"} 4.0' in text
            async with FakeSidecar(services) as another:
                await another.enrol("b", "198.18.0.9")
            await sidecar.send(Lookup(address="198.18.0.2"))
            await sidecar.expect(DirectoryEntry)
        finally:
            for _, writer in opened:
                writer.transport.abort()


async def test_a_head_that_is_too_long_ends_its_connection_and_many_short_ones_dont(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "FIRST_REQUEST_DEADLINE_S", 3_600.0)
    async with running_ca(tmp_path) as services:
        host, _, port = services.listen.rpartition(":")
        context = make_client_context(services)
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: ca\r\n")
        for number in range(20):
            writer.write(b"X-%d: %s\r\n" % (number, b"x" * 1_000))
        assert await is_ended(reader)
        writer.transport.abort()
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
        for _ in range(20):
            writer.write(b"GET /nowhere HTTP/1.1\r\nHost: ca\r\nX: %s\r\n\r\n" % (b"x" * 1_000))
            async with asyncio.timeout(60):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 404 ")
                length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
                await reader.readexactly(int(length.partition(b":")[2]))
        writer.transport.abort()


async def test_a_first_message_that_is_too_large_ends_its_connection_and_a_joined_sidecar_may_send_more(
    tmp_path: Path,
) -> None:
    """A stranger may open as many streams as there are places: with 8 MiB each they would take all memory."""
    async with running_ca(tmp_path) as services:
        async with FakeSidecar(services) as stranger:
            with pytest.raises(ConnectionClosed):  # Before the message is over: it would be answered otherwise.
                for _ in range(1_000):
                    await stranger.stream.send([b"x" * 10_000, b"x" * (serve.MAX_FIRST_MESSAGE_BYTES)])
        text = services.metrics.render().decode()
        assert 'touchmark_ca_streams_refused_total{code="too_large"} 1.0' in text
        async with FakeSidecar(services) as sidecar:
            await sidecar.enrol("a")
            report = ConnectionsReport(request=7, connections=(LIVE,) * 1_000)
            assert len(encode_message(report)) > 2 * serve.MAX_FIRST_MESSAGE_BYTES
            await sidecar.send(report, Lookup(address="198.18.0.2"))
            await sidecar.expect(DirectoryEntry)


@pytest.mark.parametrize(("count", "bytes_each"), [(60, 10), (2, 4_000)])
async def test_many_headers_or_a_long_one_are_refused_before_their_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, bytes_each: int
) -> None:
    monkeypatch.setattr(listening, "FIRST_REQUEST_DEADLINE_S", 3_600.0)
    async with running_ca(tmp_path) as services:
        host, _, port = services.listen.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), ssl=make_client_context(services))
        writer.write(b"GET /nowhere HTTP/1.1\r\nHost: ca\r\n")
        for number in range(count):
            writer.write(b"X-%d: %s\r\n" % (number, b"x" * bytes_each))
        async with asyncio.timeout(60):
            assert b" 400 " in await reader.readline()
        writer.transport.abort()


async def test_while_the_ca_ends_whoever_comes_is_refused_at_once() -> None:
    with contextlib.closing(bind("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        async with contextlib.AsyncExitStack() as stack:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            room = ConnectionRoom(4, note_closed=lambda: None)
            await serve_tls(stack, web.Application(), listener, context, room=room)
            socket.create_connection(address).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=60)


async def test_without_descriptors_it_accepts_again_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        """A listener for which there is no descriptor at first."""

        def __init__(self, listener: socket.socket) -> None:
            self.listener = listener
            self.failed = 0

        def fileno(self) -> int:
            return self.listener.fileno()

        def close(self) -> None:
            self.listener.close()

        def accept(self) -> tuple[socket.socket, object]:
            if not self.failed:
                self.failed += 1
                raise OSError(24, "Too many open files")
            return self.listener.accept()

    monkeypatch.setattr(listening, "_PAUSE_S", 0.01)
    made = []

    def serve_full(
        stack: object, application: object, listener: socket.socket, *rest: object, **more: object
    ) -> object:
        made.append(Full(listener))
        return listening.serve_tls(stack, application, made[0], *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(serve, "serve_tls", serve_full)
    async with running_ca(tmp_path) as services, FakeSidecar(services) as sidecar:
        await sidecar.enrol("a")
    assert made[0].failed == 1
