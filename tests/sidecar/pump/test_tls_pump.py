"""The pump between a plain connection and a TLS one: what the stories' tests don't cause."""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from OpenSSL import SSL

from shared.model.policy.decision import Ending
from sidecar.pump import tls_pump
from sidecar.pump.states import Flow
from sidecar.pump.tls_pump import TlsPump
from sidecar.sockets.ending import count_undelivered, reset
from tests.sidecar.little_ca import until
from tests.sidecar.partner import Partner, make_context

PARTNER = Partner()
PAYLOAD = b"0123456789abcdef" * (2 * 1024 * 1024)  # More than the kernel's buffers hold on both ways.


class Ends:
    """A pump with both outer ends: the TLS peer's (blocking) and the application's (non-blocking)."""

    def __init__(self, *, is_peer_source: bool = True) -> None:
        self.near, self.plain = _connect()
        self.far, self.peer = _connect()
        self.tls = SSL.Connection(make_context(PARTNER.issue(), PARTNER.roots.roots), self.far)
        self.tls.set_connect_state()
        server = SSL.Connection(make_context(PARTNER.issue(), PARTNER.roots.roots), self.peer)
        server.set_accept_state()
        self._server = server
        self._is_peer_source = is_peer_source

    async def begin(self) -> TlsPump:
        """Shake hands and pump."""
        loop = asyncio.get_running_loop()
        await asyncio.gather(asyncio.to_thread(self.tls.do_handshake), asyncio.to_thread(self._server.do_handshake))
        self.peer.setblocking(False)
        self.plain.setblocking(False)
        self.near.setblocking(False)
        pump = TlsPump(loop, tls=self._server, peer=self.peer, plain=self.plain, is_peer_source=self._is_peer_source)
        pump.start()
        return pump

    def close(self) -> None:
        for each in (self.near, self.plain, self.far, self.peer):
            each.close()


def _connect() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    return near, far


@contextmanager
def ends(*, is_peer_source: bool = True) -> Iterator[Ends]:
    made = Ends(is_peer_source=is_peer_source)
    try:
        yield made
    finally:
        made.close()


async def read_tls(made: Ends, count: int) -> bytes:
    def read() -> bytes:
        data = bytearray()
        while len(data) < count:
            data += made.tls.recv(65536)
        return bytes(data)

    return await asyncio.to_thread(read)


@pytest.mark.parametrize("is_peer_source", [True, False])
async def test_bytes_are_counted_from_the_source_on(is_peer_source: bool) -> None:
    loop = asyncio.get_running_loop()
    with ends(is_peer_source=is_peer_source) as made:
        pump = await made.begin()
        await asyncio.to_thread(made.tls.sendall, b"hello")
        assert await loop.sock_recv(made.near, 100) == b"hello"
        await loop.sock_sendall(made.near, b"hi")
        assert await read_tls(made, 2) == b"hi"
        assert (pump.sent, pump.received) == ((5, 2) if is_peer_source else (2, 5))
        pump.abort(Ending.SHUTDOWN)
        assert (await pump.finished).ending is Ending.SHUTDOWN


async def test_a_peer_that_reads_nothing_holds_the_application_up_and_gets_every_byte_before_the_end() -> None:
    loop, payload = asyncio.get_running_loop(), PAYLOAD
    with ends() as made:
        pump = await made.begin()

        async def write() -> None:
            await loop.sock_sendall(made.near, payload)
            made.near.shutdown(socket.SHUT_WR)

        writing = asyncio.ensure_future(write())
        await until(lambda: pump._pinned)
        assert not writing.done()
        assert await read_tls(made, len(payload)) == payload
        with pytest.raises(SSL.ZeroReturnError):
            await asyncio.to_thread(made.tls.recv, 1)
        await writing
        # The other half is open still.
        await asyncio.to_thread(made.tls.sendall, b"late")
        assert await loop.sock_recv(made.near, 100) == b"late"
        await asyncio.to_thread(made.tls.shutdown)
        assert (await pump.finished).ending is Ending.FINISHED
        assert await loop.sock_recv(made.near, 100) == b""


async def test_an_application_that_reads_nothing_holds_the_peer_up_and_gets_every_byte_before_the_end() -> None:
    loop, payload = asyncio.get_running_loop(), PAYLOAD
    with ends() as made:
        pump = await made.begin()

        def write() -> None:
            made.tls.sendall(payload)
            made.tls.shutdown()

        writing = asyncio.ensure_future(asyncio.to_thread(write))
        await until(lambda: pump._waiting)
        assert not writing.done()
        got = bytearray()
        while more := await loop.sock_recv(made.near, 65536):
            got += more
        assert bytes(got) == payload
        await writing
        made.near.shutdown(socket.SHUT_WR)
        assert (await pump.finished).ending is Ending.FINISHED


async def test_what_the_application_said_before_its_reset_is_written_first() -> None:
    with ends() as made:
        pump = await made.begin()
        writing = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(made.near, PAYLOAD))
        await until(lambda: pump._pinned)
        writing.cancel()
        await asyncio.wait({writing})
        made.near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        received = pump.received
        made.near.close()
        assert len(await read_tls(made, received)) >= received
        assert (await pump.finished).ending is Ending.RESET_BY_DESTINATION
        assert not pump.is_peer_to_blame


@pytest.mark.parametrize(
    ("is_peer_source", "ending"), [(True, Ending.RESET_BY_SOURCE), (False, Ending.RESET_BY_DESTINATION)]
)
async def test_a_reset_of_the_peer_is_its_own(is_peer_source: bool, ending: Ending) -> None:
    with ends(is_peer_source=is_peer_source) as made:
        pump = await made.begin()
        made.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        made.far.close()
        assert (await pump.finished).ending is ending
        assert pump.is_peer_to_blame


async def test_a_last_word_is_read_before_a_failed_write_is_judged() -> None:
    loop = asyncio.get_running_loop()
    with ends() as made:
        pump = await made.begin()
        await asyncio.to_thread(made.tls.sendall, b"last word")
        made.far.shutdown(socket.SHUT_RDWR)
        while not pump.finished.done():
            made.near.send(b"y" * 1000)
            await asyncio.sleep(0.001)
        assert (await pump.finished).ending in (Ending.PEER_LOST, Ending.RESET_BY_SOURCE)
        assert await loop.sock_recv(made.near, 100) == b"last word"


async def test_a_last_word_is_read_before_anything_is_written_to_a_peer_that_has_gone() -> None:
    """OpenSSL 4.0 reads nothing after a failed write."""
    loop = asyncio.get_running_loop()
    with ends() as made:
        pump = await made.begin()
        made.near.send(b"y" * 1000)
        made.tls.sendall(b"last word")
        made.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        made.far.close()
        has_gone, is_readable = select.poll(), select.poll()
        has_gone.register(made.peer, 0)
        is_readable.register(made.plain, select.POLLIN)
        assert has_gone.poll(60_000)
        assert is_readable.poll(60_000)
        pump._on_plain_readable()  # The event loop may have met this one first.
        assert (await pump.finished).ending is Ending.RESET_BY_SOURCE
        assert await loop.sock_recv(made.near, 100) == b"last word"


async def test_what_is_encrypted_with_one_key_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_pump, "MAX_KEY_BYTES", 3 * 16 * 1024)
    with ends() as made:
        pump = await made.begin()
        made.near.send(b"x" * 16 * 1024 * 4)
        assert (await pump.finished).ending is Ending.RECORD_LIMIT


async def test_nothing_moves_after_an_abort() -> None:
    with ends() as made:
        pump = await made.begin()
        pump.abort(Ending.POLICY_CHANGED)
        pump.abort(Ending.SHUTDOWN)
        await asyncio.to_thread(made.tls.sendall, b"hello")
        made.near.send(b"hi")
        await asyncio.sleep(0)
        assert (await pump.finished).ending is Ending.POLICY_CHANGED
        with pytest.raises(BlockingIOError):
            made.near.recv(1)
        assert (pump.sent, pump.received) == (0, 0)


async def test_an_answer_is_read_to_its_end_though_the_application_takes_no_more() -> None:
    """A server that answers without reading all resets the connection behind its answer; writing meets that first."""
    answer = b"a" * 100_000
    with ends() as made:
        pump = await made.begin()
        await asyncio.to_thread(made.tls.sendall, b"question")
        await until(lambda: pump.sent == 8)
        pump._plain_watch.stop_reading()
        made.near.send(answer)
        await until(lambda: not count_undelivered(made.near))
        reset(made.near)  # "question" is unread.
        await asyncio.to_thread(made.tls.sendall, b"another question")
        await until(lambda: pump._to_plain is Flow.DROPPED or pump.finished.done())
        if not pump.finished.done():
            pump._plain_watch.start_reading(pump._on_plain_readable)
        assert await read_tls(made, len(answer)) == answer
        assert (await asyncio.wait_for(pump.finished, 30)).ending is Ending.RESET_BY_DESTINATION
        assert (pump.sent, pump.received) == (8, len(answer))
