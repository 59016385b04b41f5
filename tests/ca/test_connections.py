"""A listener's connections are bounded, and who asks nothing makes room (``ca.connections``)."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ca.connections import ConnectionRoom, Visitor
from ca.runtime import serve
from ca.runtime.compose import RunningCA
from shared.model.errors import TooManyRequestsError
from shared.model.wire import admin as api
from tests.ca.running import Admin, eventually, running_ca


@pytest.fixture
async def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RunningCA]:
    monkeypatch.setattr(serve, "MAX_ADMIN_CONNECTIONS", 4)
    async with running_ca(tmp_path, admin_host="127.0.0.1") as running:
        yield running


@contextlib.asynccontextmanager
async def silent(services: RunningCA, number: int) -> AsyncIterator[list[asyncio.StreamReader]]:
    path = str(services.configuration.admin_socket)
    opened = [await asyncio.open_unix_connection(path) for _ in range(number)]
    try:
        yield [reader for reader, _ in opened]
    finally:
        for _, writer in opened:
            writer.transport.abort()


async def test_connections_that_ask_nothing_make_room_the_oldest_first(small: RunningCA) -> None:
    async with silent(small, 10) as readers, Admin(small) as admin:
        for reader in readers[:6]:
            async with asyncio.timeout(60):
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
        assert (await admin.get("/v1/status", api.CAStatus)).version
        text = await (await admin.session.get("/metrics")).text()
        # The administrator's own connection needed the place of a seventh.
        assert "touchmark_ca_admin_connections_closed_total 7.0" in text


async def test_one_whose_request_is_answered_keeps_its_place(small: RunningCA) -> None:
    async with Admin(small) as admin, admin.session.get("/v1/decisions/follow") as followed:
        async with silent(small, 10), Admin(small) as other:
            await other.get("/v1/status", api.CAStatus)
        assert followed.connection is not None
        assert not followed.connection.transport.is_closing()  # type: ignore[union-attr]


async def test_what_is_opened_at_the_port_keeps_nobody_out_at_the_socket(small: RunningCA) -> None:
    host, _, port = small.admin_listen.rpartition(":")
    opened = [await asyncio.open_connection(host, int(port)) for _ in range(8)]
    try:
        async with Admin(small) as admin:

            async def are_four_closed() -> bool:
                text = await (await admin.session.get("/metrics")).text()
                return "touchmark_ca_admin_connections_closed_total 4.0" in text

            await eventually(are_four_closed)
    finally:
        for _, writer in opened:
            writer.transport.abort()


class Quiet(asyncio.Protocol):
    """A protocol that says nothing."""


async def test_a_room_full_of_requests_closes_the_newcomer() -> None:
    closed: list[None] = []
    room = ConnectionRoom(1, note_closed=lambda: closed.append(None))
    inner = Quiet()
    server = await asyncio.get_running_loop().create_server(room.admit(lambda: inner), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    first = await asyncio.open_connection("127.0.0.1", port)
    try:
        await eventually(lambda: len(room) == 1)
        with room.asking(inner):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            async with asyncio.timeout(60):
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
            writer.close()
            assert (len(room), len(closed)) == (1, 1)
        with room.asking(object()):  # One of another room.
            assert len(room) == 1
        first[1].close()
        await eventually(lambda: len(room) == 0)
    finally:
        first[1].transport.abort()
        server.close()
        await server.wait_closed()


async def test_strangers_take_no_places_of_callers_that_were_authenticated_nor_these_more_than_their_own() -> None:
    """Whoever may forward a port to the admin door reaches it from the same address as everybody else."""
    room = ConnectionRoom(4, note_closed=lambda: None, of_one=2)
    made: list[Quiet] = []

    def make() -> Quiet:
        made.append(Quiet())
        return made[-1]

    server = await asyncio.get_running_loop().create_server(room.admit(make), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    opened = []

    async def dial() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        count = len(made)
        opened.append(await asyncio.open_connection("127.0.0.1", port))
        await eventually(lambda: len(made) == count + 1)
        return opened[-1]

    async def ask(caller: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        connection = await dial()
        with room.asking(made[-1], caller):
            pass
        return connection

    try:
        alices = [await ask("user alice"), await ask("user alice")]
        for _ in range(20):
            await dial()
        assert len(room) == 4
        assert not any(reader.at_eof() for reader, _ in alices)
        third = await ask("user alice")
        async with asyncio.timeout(60):
            with contextlib.suppress(ConnectionError):
                assert await alices[0][0].read() == b"", "her own oldest one"
        assert not third[0].at_eof()
        assert not alices[1][0].at_eof()
        with room.asking(made[1], "user alice"), room.asking(made[22], "user alice"):
            await dial()
            with pytest.raises(TooManyRequestsError), room.asking(made[-1], "user alice"):
                pass
    finally:
        for _, writer in opened:
            writer.transport.abort()
        server.close()
        await server.wait_closed()


async def test_whoever_has_shown_a_certificate_goes_after_all_strangers() -> None:
    cut: list[str] = []
    room = ConnectionRoom(3, note_closed=lambda: None)

    def knock(name: str) -> Visitor | None:
        return room.knock(Quiet, source=name, cut=lambda: cut.append(name))

    member = knock("member")
    assert member is not None
    room.vouch(member)
    for name in ("a", "b", "c", "d"):
        assert knock(name) is not None
    assert cut == ["a", "b"]
    for visitor in list(room._of_protocol.values()):
        room.vouch(visitor)
    assert knock("e") is not None
    assert cut == ["a", "b", "member"], "where all have, the oldest"
    with contextlib.ExitStack() as stack:
        for protocol in list(room._of_protocol):
            stack.enter_context(room.asking(protocol))
        assert knock("f") is None
        room.release(next(iter(room._of_protocol)))
        assert knock("g") is not None


def test_the_source_with_the_most_is_found_whatever_comes_and_goes() -> None:
    room = ConnectionRoom(64, note_closed=lambda: None)
    chance = random.Random(7)
    there: list[Visitor] = []
    for step in range(5_000):
        if len(there) == 64 or (there and chance.random() < 0.45):
            room.leave(there.pop(chance.randrange(len(there))))
        else:
            visitor = room.knock(asyncio.Protocol, source=f"s{chance.randrange(9)}", cut=lambda: None)
            assert visitor is not None
            there.append(visitor)
        counts = Counter(visitor.source for visitor in there)
        most = room._strangers.find_most()
        assert counts[most] == max(counts.values(), default=0), step
        assert all(room._strangers.count(source) == count for source, count in counts.items())
    for visitor in there:
        room.leave(visitor)
    assert (len(room), room._strangers.find_most()) == (0, "")
    assert not room._strangers._of and not room._strangers._sized
