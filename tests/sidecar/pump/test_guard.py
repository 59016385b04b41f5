"""No pump forwards a byte, in either direction, before its guard has looked when the last look is old."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import AsyncExitStack

import pytest

from shared.model.policy.decision import Ending
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Mode
from sidecar.attest.facts import AttestationError
from sidecar.pump.guard import UNGUARDED
from sidecar.pump.plain_pump import PlainPump
from tests.sidecar.little_ca import until
from tests.sidecar.pair import CLIENT, CLIENT_PROGRAM, SERVER, SERVER_PROGRAM, approve, running_pair
from tests.sidecar.pump.test_plain_pump import tcp_pair


class Watchman:
    """A guard that finds what it is told; every look is asked for."""

    fresh_until = 0.0

    def __init__(self, pump: PlainPump) -> None:
        self.pump = pump
        self.looks = 0
        self.is_good = True

    def look_again(self) -> bool:
        self.looks += 1
        if not self.is_good:
            self.pump.abort(Ending.POLICY_CHANGED)
        return self.is_good

    def find_proof(self) -> None:
        raise LookupError("only this guard looks")


def test_unguarded_is_always_fresh() -> None:
    assert UNGUARDED.fresh_until > time.monotonic()
    assert UNGUARDED.look_again()


@pytest.mark.parametrize("direction", ["forth", "back"])
async def test_a_plain_pump_forwards_nothing_once_its_guard_has_said_no(direction: str) -> None:
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        client, source = tcp_pair()
        destination, server = tcp_pair()
        for each in (client, source, destination, server):
            stack.enter_context(each)
        pump = PlainPump(loop, source, destination)
        watchman = Watchman(pump)
        pump.guard_by(watchman)
        pump.start()
        near, far = (client, server) if direction == "forth" else (server, client)
        near.send(b"good")
        await until(lambda: _peek(far) == b"good")
        assert watchman.looks
        watchman.is_good = False
        near.send(b"bad")
        assert (await pump.finished).ending is Ending.POLICY_CHANGED
        assert far.recv(10) == b"good"
        assert (pump.sent, pump.received) == ((4, 0) if direction == "forth" else (0, 4))


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("direction", ["request", "answer"])
async def test_no_byte_of_a_tunnel_passes_once_the_program_has_changed(
    side: str, direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of both ends executes another program: neither its bytes nor those for it are forwarded."""
    monkeypatch.setattr("sidecar.connection.connection.MAX_AGE_S", 0.0)
    got: list[bytes] = []
    goes_on = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(100):
                got.append(data)
                await goes_on.wait() if len(got) > 1 else None
                writer.write(data)
        except ConnectionError:
            pass
        writer.close()

    async with running_pair(serve) as pair:
        pair.set_state(approve((CLIENT, CLIENT_PROGRAM), (SERVER, SERVER_PROGRAM), mode=Mode.EXPLICIT))
        reader, writer = await pair.connect()
        writer.write(b"one")
        assert await reader.readexactly(3) == b"one"
        changed = AttestationError("another program", reason=Reason.PROGRAM_CHANGED)
        sides = {"client": pair.client, "server": pair.server}
        if direction == "request":
            sides[side].attestor.changed = changed
        writer.write(b"two")
        if direction == "answer":
            await until(lambda: len(got) == 2)
            sides[side].attestor.changed = changed
            goes_on.set()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        await until(lambda: sides[side].records)
        goes_on.set()
        assert sides[side].records[0].reason is Reason.PROGRAM_CHANGED
    assert got == ([b"one"] if direction == "request" else [b"one", b"two"])


def _peek(connection: socket.socket) -> bytes:
    try:
        return connection.recv(100, socket.MSG_PEEK)
    except BlockingIOError:
        return b""


async def test_a_listeners_program_is_looked_at_before_it_is_known_who_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.connection.connection.MAX_AGE_S", 0.0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            got.append(await reader.read(100))
        except ConnectionError:
            pass
        writer.close()

    got: list[bytes] = []
    async with running_pair(serve) as pair:
        pair.set_state(approve((CLIENT, CLIENT_PROGRAM), (SERVER, SERVER_PROGRAM), mode=Mode.EXPLICIT))
        pair.server.attestor.accepts = False  # Nobody has accepted yet, as far as can be told.
        pair.server.attestor.changed = AttestationError("another program", reason=Reason.PROGRAM_CHANGED)
        reader, writer = await pair.connect()
        writer.write(b"secret")
        try:
            with pytest.raises(ConnectionResetError):
                await reader.read()
        finally:
            writer.close()
        await until(lambda: pair.server.records)
    assert b"secret" not in got
