"""``python -m bench.directory``: 100,000 known addresses: memory, a look-up's time, and asking a new stream for all.

The directory is the sidecar's own; the CA is its real session and outbox without a socket between them, so that what is
measured is the work of both ends and not of the network.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import tracemalloc
from collections.abc import Sequence

from ca.distribution.session import Session
from shared.model.identity.identity import Workload
from shared.model.wire.messages import DirectoryEntry, FromSidecar, Lookup, decode_from_ca
from sidecar.mesh.directory_cache import DirectoryCache

_LOOKS = 200_000


async def measure(count: int) -> dict[str, float]:
    """Return the figures for so many addresses; ``stall_ms`` is the longest time without the
    event loop, in CPU time."""
    session = Session(
        instance="bench", workload=Workload(namespace="bench", service_account="bench"), opened=time.time()
    )

    def answer(message: FromSidecar) -> None:
        if isinstance(message, Lookup):
            entry = DirectoryEntry(address=message.address, namespace="shop", service_account="db", tunnel_port=15008)
            session.add_address(message.address)
            session.send(entry, key=("address", message.address))

    async def ask(message: FromSidecar) -> None:
        answer(message)

    directory = DirectoryCache(ask=ask, send=answer, is_connected=lambda: True, timeout_s=10)
    addresses = [f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}" for number in range(count)]
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for address in addresses:
        looking = asyncio.create_task(directory.look_up(address))
        await asyncio.sleep(0)
        _take(directory, await _receive(session))
        await looking
    after, _ = tracemalloc.get_traced_memory()
    watched = sys.getsizeof(session.addresses)
    tracemalloc.stop()

    started = time.perf_counter()
    for number in range(_LOOKS):
        if directory.get(addresses[number * 7919 % count]) is None:
            raise RuntimeError("an address was forgotten")
    look_us = (time.perf_counter() - started) / _LOOKS * 1e6

    started, latest = time.perf_counter(), time.process_time()
    stall_s = 0.0
    directory.confirm_all()
    while directory.unconfirmed:
        _take(directory, await _receive(session))
        await asyncio.sleep(0)
        now = time.process_time()
        stall_s, latest = max(stall_s, now - latest), now
    return {
        "addresses": count,
        "mib": round((after - before - watched) / 2**20, 1),
        "look_us": round(look_us, 2),
        "ask_again_s": round(time.perf_counter() - started, 2),
        "stall_ms": round(stall_s * 1000, 1),
    }


async def _receive(session: Session) -> bytes:
    if not len(session.outbox):
        has_some = asyncio.Event()
        session.outbox.on_put = has_some.set
        await has_some.wait()
        session.outbox.on_put = None
    return session.outbox.take()


def _take(directory: DirectoryCache, data: bytes) -> None:
    message = decode_from_ca(data)
    if isinstance(message, DirectoryEntry):
        directory.install(message)


def main(arguments: Sequence[str]) -> int:
    """Measure, print one JSON object, return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.directory")
    parser.add_argument("--addresses", type=int, default=100_000, help="known addresses (default: 100000)")
    options = parser.parse_args(arguments)
    print(json.dumps(asyncio.run(measure(options.addresses))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
