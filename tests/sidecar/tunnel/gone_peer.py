"""Run in a network namespace of its own: idle tunnels whose peer's node has gone without a word.

Belongs here: the scenarios that ``test_gone_peer.py`` starts. The packets of some connections are dropped by a filter.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from shared.model.policy.decision import Ending
from sidecar.pump import tunnel_pump
from sidecar.sockets import liveness
from sidecar.tunnel.tunnel import Tunnel
from tests.sidecar.little_ca import until
from tests.sidecar.pair import Pair, running_pair


async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 hello")
    await reader.read()
    writer.close()


async def _greet_and_read_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 hello")
    await asyncio.Event().wait()


def _cut_off(tunnels: Iterable[Tunnel]) -> None:
    """Drop every packet of these tunnels, in both directions."""
    ports = ", ".join(str(tunnel.connection.getsockname()[1]) for tunnel in tunnels)
    rules = (
        "table inet gone { chain input { type filter hook input priority 0; "
        f"tcp sport {{ {ports} }} drop; tcp dport {{ {ports} }} drop; }}\n}}\n"
    )
    subprocess.run(["nft", "-f", "-"], input=rules.encode(), check=True)


async def _hold(pair: Pair) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await pair.connect()
    assert await reader.readexactly(9) == b"220 hello"
    return reader, writer


async def reuse() -> None:
    """One try on the dead tunnel, then a new one; its siblings aren't tried."""
    tunnel_pump.ACKNOWLEDGED_S = 1.0  # type: ignore[misc]
    async with running_pair(_greet) as pair:
        pool = pair.client.sidecar.connector._pool
        for each in [await _hold(pair) for _ in range(3)]:
            each[1].close()
        await until(lambda: len(pool) == 3)
        _cut_off(pool._order)
        _, writer = await _hold(pair)
        assert (len(pool), pair.tunnels_accepted) == (0, 4)
        writer.close()
        await until(lambda: len(pair.client.records) == 4)
        assert {record.ending for record in pair.client.records} == {Ending.FINISHED}
        os._exit(0)  # The responder's ends of the dead tunnels would be waited for.


async def early_data() -> None:
    """A request was sent with OPEN: it may have arrived, so that nothing is repeated."""
    tunnel_pump.ACKNOWLEDGED_S = 1.0  # type: ignore[misc]
    async with running_pair(_greet) as pair:
        pool = pair.client.sidecar.connector._pool
        (await _hold(pair))[1].close()
        await until(lambda: len(pool) == 1)
        _cut_off(pool._order)
        reader, writer = await pair.connect()
        writer.write(b"request")
        try:
            await reader.read()
        except ConnectionResetError:
            pass
        await until(lambda: len(pair.client.records) == 2)
        record = pair.client.records[-1]
        assert (record.ending, record.bytes_sent, pair.tunnels_accepted) == (Ending.PEER_LOST, 0, 1), record
        os._exit(0)


async def idle() -> None:
    """An idle connection to a dead node ends, and one to a living node doesn't."""
    liveness.IDLE_S = liveness.INTERVAL_S = 1  # type: ignore[misc]
    async with running_pair(_greet) as pair:
        reader, writer = await _hold(pair)
        (dead,) = [pump._tunnel for pump in _pumps(pair)]
        other, kept = await _hold(pair)
        _cut_off([dead])
        try:
            await reader.read()
        except ConnectionResetError:
            pass
        await until(lambda: pair.client.records)
        assert [record.ending for record in pair.client.records] == [Ending.PEER_LOST]
        assert not other.at_eof()
        assert not kept.is_closing()
        writer.close()
        os._exit(0)


async def unacknowledged() -> None:
    """What is under way to a dead node ends; a living peer that reads nothing is kept."""
    liveness.RTO_MAX_MS = 1_000  # type: ignore[misc]
    Path("/proc/sys/net/ipv4/tcp_retries2").write_text("8", encoding="ascii")  # 7 s; 102 s without the bound.
    async with running_pair(_greet_and_read_nothing) as pair:
        reader, writer = await _hold(pair)
        (dead,) = [pump._tunnel for pump in _pumps(pair)]
        other, kept = await _hold(pair)
        kept.write(bytes(32 * 1024 * 1024))  # More than buffers on the way hold: windows are shut.
        _cut_off([dead])
        writer.write(b"lost")
        try:
            await reader.read()
        except ConnectionResetError:
            pass
        await until(lambda: pair.client.records, timeout_s=60)
        assert [record.ending for record in pair.client.records] == [Ending.PEER_LOST]
        assert not other.at_eof()
        assert not kept.is_closing()
        os._exit(0)


def _pumps(pair: Pair) -> list[tunnel_pump.TunnelPump]:
    pumps = [connection._pump for connection in pair.client.sidecar.connections]
    return [pump for pump in pumps if isinstance(pump, tunnel_pump.TunnelPump)]


SCENARIOS = {"reuse": reuse, "early-data": early_data, "idle": idle, "unacknowledged": unacknowledged}

if __name__ == "__main__":
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    asyncio.run(SCENARIOS[sys.argv[1]]())
