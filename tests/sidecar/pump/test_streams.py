"""Whatever two applications do, in whatever order: both streams, both records and all counts agree."""

from __future__ import annotations

import asyncio
import os
import random
import socket

import pytest

from sidecar.native.engine import load
from sidecar.parts import Limits
from sidecar.sockets import dial as dialling
from sidecar.tls.records import Records
from tests.sidecar import pair as pairs
from tests.sidecar.native.scripted_tls import ShortRecords
from tests.sidecar.pair import Pair, running_pair
from tests.sidecar.pump.streams import Way, carry_by_tls, shrink_buffers, talk

# RFC 6066, section 4; 0: the peer has asked for none.
FRAGMENTS = (0, 512, 1024, 2048, 4096)
# More of them, for a longer search: TOUCHMARK_SEEDS=200.
SEEDS = range(int(os.environ.get("TOUCHMARK_SEEDS", "1")))
TALKS = 5
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
    listen, begin, send = pairs._listen, dialling.dial_now, Records.send

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
            await _talk_often(pair, listener, shrunk)


async def _talk_often(pair: Pair, listener: socket.socket, rng: random.Random) -> None:
    for number in range(TALKS):
        ended = await talk(pair, listener, rng, may_reset=number % 2 == 1)
        try:
            ended.check()
        except AssertionError as error:
            sizes = [(len(each.wrote), len(each.read), each.saw, each.taken) for each in (ended.client, ended.server)]
            counts = [(r.bytes_sent, r.bytes_received, r.ending, r.detail) for r in ended.records]
            raise AssertionError(f"talk {number}: {error}; {ended.scripts}; {sizes}; {counts}") from error
