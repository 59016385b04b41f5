"""``python -m bench.holding``: what attestation costs where many hold, connect, or are looked through.

Three rows: workers of one server that connect at once (``workers``), attested by a fresh sidecar's attestor; one pass
over all processes (``pass``), with the longest time for which the event loop got no turn meanwhile, beside a process
with many descriptors; and a process's first search in explicit mode, against one that a pass has cleared (``clear``).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from bench.errors import BenchError
from bench.processes import Processes, own_python, raise_descriptor_limit
from shared.model.errors import TouchmarkError
from sidecar.attest.facts import Attestation
from sidecar.attestor import Attestor

_TIMEOUT_S = 60.0


async def measure_workers(*, workers: int, directory: Path) -> dict[str, float]:
    """Return the seconds until all workers' connections are attested: the first time, and when they reconnect."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener, Processes(directory=directory) as program:
        listener.settimeout(_TIMEOUT_S)
        address, port = listener.getsockname()
        program.start("program", [own_python(), "-m", "bench.holding_program", address, str(port), str(workers)])
        attestor = Attestor()
        seconds: list[float] = []
        try:
            for _ in range(2):
                accepted = [listener.accept() for _ in range(workers)]
                started = time.perf_counter()
                found = await asyncio.gather(*(attestor.attest(source, (address, port)) for _, source in accepted))
                seconds.append(time.perf_counter() - started)
                if len({each.process.pid for each in found}) != workers:
                    raise BenchError("two workers were taken for one")
                for connection, _ in accepted:
                    connection.send(b"1")
                    connection.close()
        finally:
            attestor.close()
    return {"first_s": round(seconds[0], 4), "again_s": round(seconds[1], 4)}


async def measure_pass(*, held: int, count: int, directory: Path) -> dict[str, float]:
    """Return the milliseconds of passes beside a program with so many connections, and of the loop's longest stall."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener, Processes(directory=directory) as program:
        listener.settimeout(_TIMEOUT_S)
        address, port = listener.getsockname()
        arguments = [address, str(port), str(held), "1"]
        program.start("program", [own_python(), "-m", "bench.attested_program", *arguments])
        pool = [listener.accept()[0] for _ in range(held)]
        connection, source = listener.accept()
        attestor = Attestor()
        try:
            attestation = await attestor.attest(source, (address, port))
            first = await _time(attestor, attestation)
            stalls: list[float] = []
            passes: list[float] = []
            for _ in range(count):
                watching = asyncio.ensure_future(_watch_stalls(stalls))
                passes.append(await _time(attestor, attestation))
                watching.cancel()
            started = time.perf_counter()
            is_clear = attestor.is_clear(attestation)
            clear_us = (time.perf_counter() - started) * 1e6
        finally:
            attestor.close()
        connection.send(b"1")
        for each in (connection, *pool):
            each.close()
    return {
        "processes": sum(name.isdigit() for name in os.listdir("/proc")),
        "first_ms": round(first * 1e3, 2),
        "median_ms": round(median(passes) * 1e3, 2),
        "longest_stall_ms": round(max(stalls) * 1e3, 2),
        "median_stall_ms": round(median(stalls) * 1e3, 2),
        "is_clear": is_clear,
        "clear_us": round(clear_us, 1),
    }


async def _time(attestor: Attestor, attestation: Attestation) -> float:
    started = time.perf_counter()
    await attestor.clear(attestation)
    return time.perf_counter() - started


async def _watch_stalls(stalls: list[float]) -> None:
    """Note the longest time between two turns of a loop that is never at rest."""
    longest, before = 0.0, time.perf_counter()
    try:
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter()
            longest, before = max(longest, now - before), now
    finally:
        stalls.append(longest)


def main(arguments: Sequence[str]) -> int:
    """Measure, print one JSON object a row, return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.holding")
    parser.add_argument("--workers", type=int, nargs="+", default=[150, 500], help="at once (default: 150 500)")
    parser.add_argument("--held", type=int, nargs="+", default=[0, 8000], help="descriptors besides (default: 0 8000)")
    parser.add_argument("--count", type=int, default=50, help="passes (default: 50)")
    options = parser.parse_args(arguments)
    raise_descriptor_limit()
    try:
        for workers in options.workers:
            with tempfile.TemporaryDirectory(prefix="touchmark-bench-") as directory:
                figures = asyncio.run(measure_workers(workers=workers, directory=Path(directory)))
            print(json.dumps({"workers": workers, **figures}))
        for held in options.held:
            with tempfile.TemporaryDirectory(prefix="touchmark-bench-") as directory:
                figures = asyncio.run(measure_pass(held=held, count=options.count, directory=Path(directory)))
            print(json.dumps({"pass": True, "held": held, **figures}))
    except TouchmarkError as error:
        print(f"✗ {error.message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
