"""Two applications that talk by a random schedule through two sidecars, and what must be true of it afterwards.

Belongs here: the applications, their schedules, what carries them, the comparison. Doesn't: the tests
(``test_streams.py``).
"""

from __future__ import annotations

import asyncio
import fcntl
import random
import socket
import struct
import termios
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any, Final, cast

from OpenSSL import SSL

from shared.model.policy.decision import DecisionRecord, Ending, Transport
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, Mode
from sidecar.attest.facts import AttestationError
from sidecar.capture.captured import Captured
from sidecar.connection.connection import Connection
from sidecar.draining import Draining
from sidecar.parts import Sidecar
from sidecar.sockets.dial import dial
from sidecar.sockets.ending import reset
from sidecar.steps import pump_through_tls
from sidecar.tls.foreign_handshake import Session
from tests.sidecar.little_ca import until
from tests.sidecar.pair import CLIENT, CLIENT_PROGRAM, SERVER, SERVER_PROGRAM, Pair, approve
from tests.sidecar.partner import Partner, make_context

_PARTNER: Final = Partner()
_SIZES: Final = (1, 7, 100, 4000, 16_379, 16_380, 16_381, 40_000, 150_000)
_PAUSES: Final = (0.0, 0.0, 0.0, 0.001, 0.01)
_AFTER: Final = (0.0, 0.0, 0.01, 0.05)


class Way(Enum):
    """What carries the bytes between the two sidecars, or past the second one."""

    PLAIN = auto()
    TUNNEL = auto()
    RENEWING = auto()  # A tunnel whose keys are used up again and again.
    TLS = auto()  # As towards foreign peers, in both roles.


class Event(Enum):
    """What happens to the sidecars while two applications talk."""

    NONE = auto()
    DRAIN = auto()  # The server's sidecar drains, and another one takes over.
    FORGET = auto()  # The client's sidecar closes its idle tunnels, as after a change of trust.
    CUT_NEAR = auto()  # The client's sidecar ends its live connections, as one that was drained for long enough.
    CUT_FAR = auto()  # The server's does.


_CUTS: Final = frozenset({Event.CUT_NEAR, Event.CUT_FAR})


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What one application does.

    Attributes:
        writes: a pause in seconds and a number of bytes, for each write.
        resets: it resets the connection after its last write, instead of ending its direction.
        chunk: bytes of each read; ``pauses`` in seconds between them.
        reads_late: it reads nothing before it has written everything.
    """

    writes: tuple[tuple[float, int], ...]
    resets: bool
    chunk: int
    pauses: tuple[float, ...]
    reads_late: bool = False


def draw_script(rng: random.Random, *, may_reset: bool, reads_late: bool = False) -> Script:
    """Draw what an application does."""
    count = rng.randrange(6)
    return Script(
        writes=tuple((rng.choice(_PAUSES), rng.choice(_SIZES)) for _ in range(count)),
        resets=may_reset and rng.random() < 0.3,
        chunk=rng.choice((1000, 10_000, 200_000)),
        pauses=tuple(rng.choice(_PAUSES) for _ in range(7)),
        reads_late=reads_late,
    )


def shrink_buffers(rng: random.Random, connection: socket.socket) -> None:
    """Give a socket little room; accepted sockets inherit it from their listener."""
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        connection.setsockopt(socket.SOL_SOCKET, option, rng.choice((4096, 20_000, 100_000)))


@dataclass(kw_only=True)
class Application:
    """One end of a connection.

    Attributes:
        wrote: what its kernel took.
        read: what it got.
        saw: how the other direction ended: ``end`` or ``reset``; empty where it has reset the connection itself.
        taken: bytes that its kernel had got, read or not, when it did so.
    """

    connection: socket.socket
    wrote: bytearray = field(default_factory=bytearray)
    read: bytearray = field(default_factory=bytearray)
    saw: str = ""
    taken: int = 0

    async def run(self, script: Script, rng: random.Random) -> None:
        """Do what the script says, to the end."""
        written = asyncio.Event()
        if not script.reads_late:
            written.set()
        reading = asyncio.ensure_future(self._read(script, written))
        is_broken = not await self._write(script, rng)
        written.set()
        # The error that a write met isn't told to the reader again, which would see an end.
        if script.resets and not is_broken:
            reading.cancel()
            await asyncio.wait({reading})
            if not self.saw:
                # A reset acknowledges nothing, and what was read may still be unacknowledged for 40 ms.
                self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
                self.taken = len(self.read) + _count_unread(self.connection)
                reset(self.connection)
                return
        elif not is_broken:
            try:
                self.connection.shutdown(socket.SHUT_WR)
            except OSError:
                is_broken = True
        await reading
        if is_broken:
            self.saw = "reset"
        if script.resets:
            reset(self.connection)
        self.connection.close()

    async def _write(self, script: Script, rng: random.Random) -> bool:
        for pause_s, size in script.writes:
            await asyncio.sleep(pause_s)
            data = memoryview(rng.randbytes(size))
            while data:
                try:
                    count = self.connection.send(data)
                except BlockingIOError:
                    await asyncio.sleep(0.001)
                    continue
                except OSError:
                    return False
                self.wrote += data[:count]
                data = data[count:]
        return True

    async def _read(self, script: Script, written: asyncio.Event) -> None:
        turn = 0
        await written.wait()
        while True:
            try:
                data = self.connection.recv(script.chunk)
            except BlockingIOError:
                await _wait_readable(self.connection)
                continue
            except OSError:
                self.saw = "reset"
                return
            self.read += data
            if not data:
                self.saw = "end"
                return
            turn += 1
            await asyncio.sleep(script.pauses[turn % len(script.pauses)])


async def _wait_readable(connection: socket.socket) -> None:
    """Wait without reading: ``sock_recv`` loses what it has read when it's cancelled right after."""
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(connection, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(connection)


def _count_unread(connection: socket.socket) -> int:
    try:
        return int(struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.FIONREAD, b"\0\0\0\0"))[0])
    except OSError:
        return 0


# ---- what carries them ------------------------------------------------------------------------------------------


async def carry_by_tls(pair: Pair, captured: Captured) -> None:
    """Carry a connection through both sidecars by TLS without frames: both roles of a foreign peer."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = await dial(loop, listener.getsockname()[:2], mark=0, timeout_s=60)
        far, _ = await loop.run_in_executor(None, listener.accept)
    context = make_context(_PARTNER.issue(), _PARTNER.roots.roots)
    ends = SSL.Connection(context, near), SSL.Connection(context, far)
    ends[0].set_connect_state()
    ends[1].set_accept_state()
    for connection in (near, far):
        connection.setblocking(True)
    await asyncio.gather(*(asyncio.to_thread(end.do_handshake) for end in ends))
    for connection in (near, far):
        connection.setblocking(False)
    onward = await dial(loop, pair.application, mark=0, timeout_s=60)
    await asyncio.gather(
        _pump(pair.client.sidecar, Direction.EGRESS, captured, captured.connection, ends[0], near),
        _pump(pair.server.sidecar, Direction.INGRESS, captured, onward, ends[1], far),
    )


async def _pump(
    sidecar: Sidecar,
    direction: Direction,
    captured: Captured,
    application: socket.socket,
    tls: SSL.Connection,
    peer: socket.socket,
) -> None:
    session = Session(tls=tls, peer=cast("Any", None))  # Who is there was decided before.
    with Connection(
        sidecar, direction, source=captured.source, destination=captured.destination, application=application
    ) as connection:
        try:
            await pump_through_tls(sidecar, connection, session, peer)
        finally:
            if peer.fileno() >= 0:
                reset(peer)


# ---- what must be true ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """One connection that has ended: both applications, what they did, and the records of it."""

    client: Application
    server: Application
    scripts: tuple[Script, Script]
    event: Event
    records: tuple[DecisionRecord, ...]

    def check(self) -> None:
        """Compare the streams, the records and the counts."""
        client, server = self.client, self.server
        assert client.wrote.startswith(server.read), "what the server read isn't what the client wrote"
        assert server.wrote.startswith(client.read), "what the client read isn't what the server wrote"
        if server.saw == "end":
            assert len(server.read) == len(client.wrote), "the client's stream was cut, and ended as if whole"
            assert not self.scripts[0].resets, "the client's reset reached the server as an end"
        if client.saw == "end":
            assert len(client.read) == len(server.wrote), "the server's stream was cut, and ended as if whole"
            assert not self.scripts[1].resets, "the server's reset reached the client as an end"
        if self.event not in _CUTS and not any(script.resets for script in self.scripts):
            assert (client.saw, server.saw) == ("end", "end")
            assert {record.ending for record in self.records} == {Ending.FINISHED}
        for record in self.records:
            assert record.reason not in (Reason.PROTOCOL_ERROR, Reason.INTERNAL_ERROR)
            self._check_counts(record)

    def _check_counts(self, record: DecisionRecord) -> None:
        client, server = self.client, self.server
        assert record.bytes_sent <= len(client.wrote)
        assert record.bytes_received <= len(server.wrote)
        if record.ending is Ending.FINISHED:
            counts = (record.bytes_sent, record.bytes_received)
            assert counts == (len(client.wrote), len(server.wrote)), "a finished connection's counts"
        if record is not self.records[-1]:  # The client's sidecar, where the server has one as well.
            self._check_delivered(record.bytes_received, client)
        elif len(self.records) == 1:
            self._check_delivered(record.bytes_received, client)
            self._check_delivered(record.bytes_sent, server)
        else:
            self._check_delivered(record.bytes_sent, server)

    def _check_delivered(self, count: int, application: Application) -> None:
        """A record claims what the application's kernel has taken: all that it read, and no more than was there.

        Where a sidecar cut the connection, an acknowledgement may have been on its way: the record then claims less.
        """
        if self.event in _CUTS:
            assert count <= max(len(application.read), application.taken), "a record claims what wasn't delivered"
        elif application.saw:
            assert count == len(application.read), "a record's count isn't what the application got"
        else:
            assert len(application.read) <= count <= application.taken, "a record claims what wasn't delivered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One connection that the server's sidecar refused."""

    client: Application
    script: Script
    records: tuple[DecisionRecord, ...]

    def check(self) -> None:
        """Nothing came to the client but a reset, and no record claims that anything was delivered."""
        assert not self.client.read
        if self.client.saw:
            assert self.client.saw == "reset"
            assert {record.reason for record in self.records} == {Reason.SOCKET_SHARED}
        else:  # It has reset the connection before it knew, so that its sidecar can't know.
            assert self.script.resets
        for record in self.records:
            claimed = record.bytes_sent if self.client.saw or record is self.records[-1] else 0
            assert (claimed, record.bytes_received) == (0, 0), "what was refused was delivered"


async def talk(pair: Pair, listener: socket.socket, rng: random.Random, *, may_reset: bool, event: Event) -> Talk:
    """Have the two applications talk once by random scripts, and wait for both records."""
    loop = asyncio.get_running_loop()
    # Not both: each would wait for the other one to read. A sidecar that ends doesn't wait for a late one.
    late = None if event in _CUTS else rng.choice((None, None, 0, 1))
    scripts = (
        draw_script(rng, may_reset=may_reset, reads_late=late == 0),
        draw_script(rng, may_reset=may_reset, reads_late=late == 1),
    )
    after_s = rng.choice(_AFTER)
    happening = None if event in _CUTS else asyncio.ensure_future(_happen(pair, event, after_s))
    near = await _connect(pair, rng)
    port = near.getsockname()[1]
    async with asyncio.timeout(60):
        far, _ = await loop.sock_accept(listener)
    far.setblocking(False)
    if happening is None:
        happening = asyncio.ensure_future(_happen(pair, event, after_s))
    client, server = Application(connection=near), Application(connection=far)
    seeds = random.Random(rng.random()), random.Random(rng.random())
    async with asyncio.timeout(60):
        await asyncio.gather(client.run(scripts[0], seeds[0]), server.run(scripts[1], seeds[1]), happening)
    records = await _find_records(pair, port)
    return Talk(client=client, server=server, scripts=scripts, event=event, records=records)


async def be_refused(pair: Pair, rng: random.Random, *, may_reset: bool) -> Refusal:
    """Have the client be refused by the server's sidecar, early or late, whatever it writes meanwhile."""
    script = draw_script(rng, may_reset=may_reset)
    attestor, policies, states = pair.server.attestor, pair.server.policies, pair.server.policies.states
    approvals = (CLIENT, CLIENT_PROGRAM), (SERVER, SERVER_PROGRAM)
    policies.states = {"shop": approve(*approvals, mode=Mode.EXPLICIT)}
    attestor.shared = AttestationError("ordered by the test", reason=Reason.SOCKET_SHARED)
    attestor.clears_after_s = rng.choice(_AFTER)
    try:
        near = await _connect(pair, rng)
        port = near.getsockname()[1]
        client = Application(connection=near)
        async with asyncio.timeout(60):
            await client.run(script, random.Random(rng.random()))
        return Refusal(client=client, script=script, records=await _find_records(pair, port))
    finally:
        attestor.shared, policies.states = None, states


async def _connect(pair: Pair, rng: random.Random) -> socket.socket:
    near = socket.socket()
    near.setblocking(False)
    shrink_buffers(rng, near)
    await asyncio.get_running_loop().sock_connect(near, pair.entrance)
    return near


async def _happen(pair: Pair, event: Event, after_s: float) -> None:
    await asyncio.sleep(after_s)
    if event is Event.DRAIN:
        old = pair.server.sidecar
        pair.server.sidecar = replace(old, draining=Draining())
        old.draining.begin()
    elif event is Event.FORGET:
        pair.client.sidecar.connector.close()
    elif event in _CUTS:
        side = pair.client if event is Event.CUT_NEAR else pair.server
        side.sidecar.connections.close_all()


async def _find_records(pair: Pair, port: int) -> tuple[DecisionRecord, ...]:
    address, sides = f"127.0.0.1:{port}", (pair.client, pair.server)

    def find() -> tuple[DecisionRecord, ...]:
        return tuple(record for side in sides for record in side.records if record.source.address == address)

    await until(find)
    await until(lambda: len(find()) == 2 or find()[0].transport is Transport.PLAINTEXT)
    return find()
