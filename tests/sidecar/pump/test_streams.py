"""Whatever two applications do, in whatever order: both streams, both records and all counts agree."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import Callable, Iterable

import pytest

from shared.model.policy.decision import DecisionRecord
from sidecar.native.engine import load
from sidecar.parts import Limits
from sidecar.sockets import dial as dialling
from sidecar.sockets import ending
from sidecar.tls.records import Records
from sidecar.tunnel import native_tunnel
from tests.sidecar import pair as pairs
from tests.sidecar.little_ca import until
from tests.sidecar.native.scripted_tls import ShortRecords
from tests.sidecar.pair import Pair, running_pair
from tests.sidecar.pump.streams import Application, Event, Way, be_refused, carry_by_tls, shrink_buffers, talk

# RFC 6066, section 4; 0: the peer has asked for none.
FRAGMENTS = (0, 512, 1024, 2048, 4096)
# More of them, for a longer search: TOUCHMARK_SEEDS=200.
SEEDS = range(int(os.environ.get("TOUCHMARK_SEEDS", "1")))
TALKS = 4
# Without TLS there are no fragments; the compiled loop, which takes any length alike, gets three of them.
CASES = [
    (engine, way, (fragment, seed))
    for engine in ("python", "native")
    for way in Way
    for fragment in FRAGMENTS
    for seed in SEEDS
    if engine == "python" or fragment == 0 or (fragment in (512, 2048) and way is not Way.PLAIN)
]


async def _serve_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Replaced by the test's own listener."""


@pytest.fixture
def shrunk(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> random.Random:
    """Give every socket little room, and records the length that the peer may have asked for."""
    fragment, seed = request.param
    rng = random.Random(seed * 100_003 + fragment)
    monkeypatch.setattr(native_tunnel, "STEADY_CALLS", random.Random(fragment + seed).choice((1, 2, 4)))
    listen, begin, send = pairs._listen, dialling.dial_now, Records.send
    # Two that have given up may each wait for the other one to read, as long as they wait for anyone.
    monkeypatch.setattr(ending, "DELIVERY_DEADLINE_S", 1.0)

    def listen_with_little(address: str) -> socket.socket:
        listener = listen(address)
        shrink_buffers(rng, listener)
        return listener

    def dial_with_little(destination: tuple[str, int], *, mark: int) -> socket.socket:
        connection = begin(destination, mark=mark)
        shrink_buffers(rng, connection)
        return connection

    def send_fragment(records: Records, data: bytes | memoryview) -> int:
        return send(records, data[:fragment] if fragment else data)

    monkeypatch.setattr(pairs, "_listen", listen_with_little)
    monkeypatch.setattr(dialling, "dial_now", dial_with_little)
    monkeypatch.setattr(Records, "send", send_fragment)
    if fragment and load() is not None:
        library = ShortRecords(fragment)
        monkeypatch.setattr("sidecar.native.engine.load", lambda: library.loop)
    return rng


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(("engine", "way", "shrunk"), CASES, indirect=["engine", "shrunk"], ids=str)
async def test_streams_records_and_counts_agree(
    shrunk: random.Random, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_bytes = 60_000 if way is Way.RENEWING else Limits().key_bytes
    limits = Limits(client_hello_s=20, handshake_s=20, open_s=20, dial_s=20, reset_s=20, key_bytes=key_bytes)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        shrink_buffers(shrunk, listener)
        async with running_pair(_serve_nothing, limits=limits) as pair:
            pair.application = listener.getsockname()[:2]
            if way is Way.PLAIN:
                pair.client.directory.entries.clear()
            elif way is Way.TLS:
                monkeypatch.setattr(pairs, "carry_outbound", lambda _, captured: carry_by_tls(pair, captured))
            closing = _note_closing(monkeypatch)
            await _talk_often(pair, listener, shrunk, way)
            pair.client.sidecar.connector.close()
            await until(lambda: not pair.tasks and all(each.fileno() < 0 for each in closing))


def _note_closing(monkeypatch: pytest.MonkeyPatch) -> list[socket.socket]:
    """Return the connections of tunnels that are closed after delivery from now on."""
    closing: list[socket.socket] = []
    close = ending.close_after_delivery

    def note(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> None:
        closing.append(connection)
        close(loop, connection)

    monkeypatch.setattr("sidecar.tunnel.tunnel.close_after_delivery", note)
    return closing


async def _talk_often(pair: Pair, listener: socket.socket, rng: random.Random, way: Way) -> None:
    for number in range(TALKS):
        may_reset = number % 2 == 1
        if way in (Way.TUNNEL, Way.RENEWING) and rng.random() < 0.5:
            refused = await be_refused(pair, rng, may_reset=rng.random() < 0.5)
            _check(refused.check, f"refusal before talk {number}: {refused.script}", (refused.client,), refused.records)
        event = Event.NONE if number == 0 else rng.choice(tuple(Event))
        ended = await talk(pair, listener, rng, may_reset=may_reset, event=event)
        told = f"talk {number}: {ended.event}; {ended.scripts}"
        _check(ended.check, told, (ended.client, ended.server), ended.records)


def _check(
    check: Callable[[], None], told: str, ends: tuple[Application, ...], records: Iterable[DecisionRecord]
) -> None:
    try:
        check()
    except AssertionError as error:
        sizes = [(len(each.wrote), len(each.read), each.saw, each.taken) for each in ends]
        counts = [(r.bytes_sent, r.bytes_received, r.ending, r.reason, r.detail) for r in records]
        raise AssertionError(f"{error}; {told}; {sizes}; {counts}") from error
