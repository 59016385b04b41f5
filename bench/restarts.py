"""``python -m bench.restarts``: so many sidecars' streams that come again at once to one CA.

They join first, then all streams are closed, and all come again at the same moment with their certificates: what a CA
meets that was restarted. A sidecar that isn't served tries again after the sidecar's own pauses. Counted is how long
until all have their welcome, what failed on the way, and the CPU time of the CA and of the clients beside it.
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
from statistics import median
from typing import Any, Final

import uvloop

from bench.accounting import read_usage
from bench.figures import percentile
from bench.light_sidecars import LightSidecar, close, come_again, enrol
from bench.processes import raise_descriptor_limit
from bench.subjects.touchmark import RunningCA, run_ca
from cli.admin.client import AdminClient
from shared.model.errors import TouchmarkError

DEADLINE_S: Final = 300.0
# This process stands for machines that don't wait for one another: else the first would say nothing before all are
# connected, nor hear the CA's answer before all have asked.
_BEGUN_IN_A_TURN: Final = 16


async def measure(ca: RunningCA, count: int) -> dict[str, Any]:
    """Return the figures.

    Raises:
        BenchError: the CA refused one that joined, or kept a stream that was closed.
    """
    sidecars, streams = await enrol(ca, count)
    await close(streams)
    await _wait_until_gone(ca)
    before = read_usage([ca.pid])
    failures: Counter[str] = Counter()
    began, clients_began = time.perf_counter(), time.process_time()

    async def serve(sidecar: LightSidecar) -> float | None:
        try:
            async with asyncio.timeout(DEADLINE_S):
                streams.append(await come_again(ca, sidecar, failures))
        except TimeoutError:
            return None
        return time.perf_counter() - began

    streams.clear()
    tasks: list[asyncio.Task[float | None]] = []
    for sidecar in sidecars:
        tasks.append(asyncio.create_task(serve(sidecar), name=f"restart-{sidecar.instance}"))
        if len(tasks) % _BEGUN_IN_A_TURN == 0:
            await asyncio.sleep(0)
    times = await asyncio.gather(*tasks)
    after, clients_ended = read_usage([ca.pid]), time.process_time()
    served = [each for each in times if each is not None]
    await close(streams)
    return {
        "sidecars": count,
        "served": len(served),
        "never_served": count - len(served),
        "all_served_s": round(max(served, default=0.0), 2),
        "median_s": round(median(served), 2) if served else None,
        "p99_s": round(percentile(served, 0.99), 2) if served else None,
        "failed_attempts": dict(failures.most_common()),
        "ca_cpu_ms_per_stream": round((after.cpu_us - before.cpu_us) / 1000 / count, 2),
        "client_cpu_ms_per_stream": round((clients_ended - clients_began) * 1000 / count, 2),
    }


async def _wait_until_gone(ca: RunningCA) -> None:
    async with AdminClient(ca.admin_socket) as admin, asyncio.timeout(DEADLINE_S):
        while (await admin.get_status()).sidecars_connected:  # noqa: ASYNC110  # Another process knows.
            await asyncio.sleep(0.1)


def main(arguments: Sequence[str]) -> int:
    """Measure, print one JSON object, return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.restarts")
    parser.add_argument("--sidecars", type=int, default=2_000, help="(default: 2000)")
    options = parser.parse_args(arguments)
    raise_descriptor_limit()
    try:
        with tempfile.TemporaryDirectory(prefix="touchmark-bench-") as directory, run_ca(Path(directory)) as ca:
            figures = uvloop.run(measure(ca, options.sidecars))
    except (TouchmarkError, TimeoutError) as error:
        print(f"✗ {error}", file=sys.stderr)
        return 1
    print(json.dumps(figures))
    return 1 if figures["never_served"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
