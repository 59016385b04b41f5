"""CEF over TLS to a real server: framed, again after a break, and only to a server that a root vouches for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from ca.forwarding.courier import LaterError
from ca.forwarding.syslog import SyslogStore, frame
from shared.model.formats.cef import write_line
from tests.ca.forwarding.certified import Certified, make_certified
from tests.ca.running import eventually
from tests.shared.model.formats.examples import ALLOWED, DENIED


class Server:
    """Keeps what came, by connection."""

    def __init__(self) -> None:
        self.port = 0
        self.received: list[bytearray] = []
        self.writers: list[asyncio.StreamWriter] = []

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = bytearray()
        self.received.append(received)
        self.writers.append(writer)
        try:
            while data := await reader.read(65_536):
                received += data
        except OSError:
            pass
        finally:
            writer.transport.abort()


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Certified:
    return make_certified(tmp_path_factory.mktemp("syslog"))


@asynccontextmanager
async def serving(certified: Certified) -> AsyncIterator[Server]:
    made = Server()
    server = await asyncio.start_server(made.take, "127.0.0.1", 0, ssl=certified.server)
    made.port = server.sockets[0].getsockname()[1]
    async with server:
        yield made
        for writer in made.writers:
            writer.transport.abort()


def make_store(server: Server, certified: Certified) -> SyslogStore:
    return SyslogStore("127.0.0.1", server.port, context=certified.knowing, hostname="ca 1")


def read_frames(data: bytes) -> list[str]:
    frames = []
    while data:
        length, _, rest = data.partition(b" ")
        frames.append(rest[: int(length)].decode())
        data = rest[int(length) :]
    return frames


def test_a_message_is_rfc_5424_in_a_frame_of_rfc_5425() -> None:
    [message] = read_frames(frame(DENIED, hostname="ca-1"))
    assert message == f"<84>1 2027-01-15T08:00:00.000Z ca-1 touchmark-ca - decision - {write_line(DENIED)}"


async def test_batches_follow_one_another_on_one_connection(certified: Certified) -> None:
    async with serving(certified) as server:
        store = make_store(server, certified)
        await store.send([DENIED, ALLOWED])
        await store.send([DENIED])
        expected = b"".join(frame(each, hostname="ca-1") for each in (DENIED, ALLOWED, DENIED))
        await eventually(lambda: server.received and bytes(server.received[0]) == expected, deadline_s=60)
        await store.close()
    assert len(server.received) == 1
    assert len(read_frames(expected)) == 3


async def test_after_a_break_there_is_another_connection(certified: Certified) -> None:
    async with serving(certified) as server:
        store = make_store(server, certified)
        await store.send([DENIED])
        await eventually(lambda: server.received and server.received[0], deadline_s=60)
        server.writers[0].transport.abort()

        async def is_connected_again() -> bool:
            try:
                await store.send([ALLOWED])
            except LaterError:
                pass
            return len(server.received) > 1 and bool(server.received[1])

        await eventually(is_connected_again, deadline_s=60)
        await store.close()


async def test_a_server_that_nobody_vouches_for_gets_nothing(certified: Certified) -> None:
    async with serving(certified) as server:
        store = SyslogStore("127.0.0.1", server.port, context=certified.doubting, hostname="ca")
        with pytest.raises(LaterError):
            await store.send([DENIED])
        await store.close()
        assert not any(server.received)
