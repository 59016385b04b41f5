"""``python -m bench.attestation``: how long the event loop spends on attesting a connection of a known program.

A program holds some connections and opens one after another; each is a socket that was never looked at before. The
first is attested in full (not counted), the others by ``attest_now``. An answer of None fails the measurement: it would
be the slow path that isn't measured here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from bench.errors import BenchError
from bench.figures import percentile
from bench.processes import Processes, own_python
from shared.model.errors import TouchmarkError
from sidecar.attestor import Attestor

_TIMEOUT_S = 30.0


async def measure(*, held: int, count: int, directory: Path) -> list[float]:
    """Return the seconds of ``count`` fast attestations of one program with ``held`` other connections.

    Raises:
        BenchError: one of them wasn't answered at once.
    """
    attestor = Attestor()
    seconds: list[float] = []
    try:
        with (
            socket.create_server(("127.0.0.1", 0), backlog=1024) as listener,
            Processes(directory=directory) as program,
        ):
            listener.settimeout(_TIMEOUT_S)
            address, port = listener.getsockname()
            arguments = [address, str(port), str(held), str(count + 1)]
            program.start("program", [own_python(), "-m", "bench.attested_program", *arguments])
            pool = [listener.accept()[0] for _ in range(held)]
            for number in range(count + 1):
                connection, source = listener.accept()
                with connection:
                    if number == 0:
                        await attestor.attest(source, (address, port))
                    else:
                        started = time.perf_counter()
                        attestation = attestor.attest_now(source, (address, port))
                        seconds.append(time.perf_counter() - started)
                        if attestation is None:
                            raise BenchError(f"look {number}: the program isn't known to the fast path")
                    connection.send(b"1")
            for connection in pool:
                connection.close()
    finally:
        attestor.close()
    return seconds


def main(arguments: Sequence[str]) -> int:
    """Measure, print one JSON object a number of held connections, return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.attestation")
    parser.add_argument("--count", type=int, default=2000, help="connections (default: 2000)")
    parser.add_argument("--held", type=int, nargs="+", default=[0, 32, 100], help="held besides (default: 0 32 100)")
    options = parser.parse_args(arguments)
    try:
        for held in options.held:
            with tempfile.TemporaryDirectory(prefix="touchmark-bench-") as directory:
                seconds = asyncio.run(measure(held=held, count=options.count, directory=Path(directory)))
            print(
                json.dumps(
                    {
                        "held": held,
                        "count": len(seconds),
                        "median_us": round(median(seconds) * 1e6, 1),
                        "p99_us": round(percentile(seconds, 0.99) * 1e6, 1),
                        "max_us": round(max(seconds) * 1e6, 1),
                    }
                )
            )
    except TouchmarkError as error:
        print(f"✗ {error.message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
