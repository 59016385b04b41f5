"""``python -m bench.streams``: what so many sidecars' open streams take of the CA's memory.

Resident memory of the real CA before any has joined, and when all have and nothing was said for a while. Divided by
their number it is what one stream costs, with its TLS connection, its sidecar's records, and what the allocator keeps.
With ``--again`` also when all have closed their streams and come again with their certificates, which OpenSSL keeps for
as long as a connection lives.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import uvloop
from websockets.asyncio.client import ClientConnection

from bench.accounting import read_usage
from bench.errors import BenchError
from bench.light_sidecars import AT_ONCE, LightSidecar, close, come_again, enrol
from bench.processes import raise_descriptor_limit
from bench.subjects.touchmark import RunningCA, run_ca
from cli.admin.client import AdminClient
from shared.model.errors import TouchmarkError

_QUIET_S: Final = 25.0  # Longer than the CA's heartbeat: each stream has been pinged.
_WARM: Final = 50  # What the first streams load stays, and isn't theirs.


async def measure(ca: RunningCA, count: int, *, quiet_s: float = _QUIET_S, comes_again: bool = False) -> dict[str, Any]:
    """Return the figures.

    Raises:
        BenchError: a stream couldn't be opened, or didn't stay open.
    """
    _, warm = await enrol(ca, min(_WARM, count))
    await close(warm)
    before = read_usage([ca.pid])
    began = time.perf_counter()
    sidecars, streams = await enrol(ca, count)
    joined_s = time.perf_counter() - began
    joined = read_usage([ca.pid])
    await asyncio.sleep(quiet_s)
    after = read_usage([ca.pid])
    async with AdminClient(ca.admin_socket) as admin:
        connected = (await admin.get_status()).sidecars_connected
    if connected != count:
        raise BenchError(f"{connected} of {count} streams stayed open")
    await close(streams)
    again: dict[str, Any] = {}
    if comes_again:
        streams = await _come_again(ca, sidecars)
        await asyncio.sleep(quiet_s)
        rss_bytes = read_usage([ca.pid]).rss_bytes - before.rss_bytes
        again["kib_per_stream_again"] = round(rss_bytes / 1024 / count, 1)
        await close(streams)
    return {
        "streams": count,
        "kib_per_stream": round((after.rss_bytes - before.rss_bytes) / 1024 / count, 1),
        **again,
        "ca_rss_mib": round(after.rss_bytes / 2**20, 1),
        "joined_per_s": round(count / joined_s, 1),
        "ca_cpu_ms_to_join": round((joined.cpu_us - before.cpu_us) / 1000 / count, 2),
        "ca_cpu_percent_when_quiet": round((after.cpu_us - joined.cpu_us) / 1e4 / quiet_s, 1) if quiet_s else None,
    }


async def _come_again(ca: RunningCA, sidecars: Sequence[LightSidecar]) -> list[ClientConnection]:
    turns = asyncio.Semaphore(AT_ONCE)
    failures: Counter[str] = Counter()

    async def come(sidecar: LightSidecar) -> ClientConnection:
        async with turns:
            return await come_again(ca, sidecar, failures)

    return await asyncio.gather(*(come(sidecar) for sidecar in sidecars))


def main(arguments: Sequence[str]) -> int:
    """Measure, print one JSON object, return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.streams")
    parser.add_argument("--count", type=int, default=10_000, help="streams (default: 10000)")
    parser.add_argument("--again", action="store_true", help="have them come again with their certificates, too")
    options = parser.parse_args(arguments)
    raise_descriptor_limit()
    try:
        with tempfile.TemporaryDirectory(prefix="touchmark-bench-") as directory, run_ca(Path(directory)) as ca:
            figures = uvloop.run(measure(ca, options.count, comes_again=options.again))
    except (TouchmarkError, TimeoutError) as error:
        print(f"✗ {error}", file=sys.stderr)
        return 1
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
