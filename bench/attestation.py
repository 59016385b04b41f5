"""``python -m bench.attestation``: how long the event loop spends on attesting a connection of a known program.

A program holds some connections and opens one after another; each is a socket that was never looked at before. The
first is attested in full (not counted), the others by ``attest_now``. An answer of None fails the measurement: it would
be the slow path that isn't measured here. Then: one later look at the program of a live connection; and the first
attestation of a program while others, of 1 GB each and never seen before, are hashed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from bench.errors import BenchError
from bench.figures import percentile
from bench.processes import Processes, own_python, raise_descriptor_limit
from shared.model.errors import TouchmarkError
from sidecar.attestor import Attestor
from sidecar.sockets.address import Endpoint

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


async def measure_look(*, count: int, directory: Path) -> list[float]:
    """Return the seconds of ``count`` looks at whether a process still runs what was attested."""
    attestor = Attestor()
    seconds: list[float] = []
    try:
        with one_connection(own_python(), directory) as (source, place):
            attestation = await attestor.attest(source, place)
            for _ in range(count):
                started = time.perf_counter()
                if list(attestor.look_again([attestation])):
                    raise BenchError("the program has changed")
                seconds.append(time.perf_counter() - started)
    finally:
        attestor.close()
    return seconds


async def measure_beside(*, strangers: int, size: int, directory: Path) -> float:
    """Return the seconds of a program's first attestation while strangers of that size in bytes are hashed.

    Raises:
        BenchError: a stranger was hashed before the measurement ended.
    """
    attestor = Attestor()
    try:
        with ExitStack() as stack:
            sources = []
            for number in range(strangers + 1):
                program = directory / f"program{number}"
                shutil.copy(os.path.realpath(sys.executable), program)
                os.truncate(program, program.stat().st_size + number + (size if number else 0))
                sources.append(stack.enter_context(one_connection(str(program), directory)))
            running = [asyncio.create_task(attestor.attest(*each)) for each in sources[1:]]
            await asyncio.sleep(0.05)
            started = time.perf_counter()
            await attestor.attest(*sources[0])
            seconds = time.perf_counter() - started
            if any(each.done() for each in running):
                raise BenchError("a stranger was hashed too soon")
            await asyncio.gather(*running)
            return seconds
    finally:
        attestor.close()


@contextmanager
def one_connection(program: str, directory: Path) -> Iterator[tuple[Endpoint, Endpoint]]:
    """Run a Python under some name with one connection; yield its source and its destination."""
    code = "import socket, sys; c = socket.create_connection((sys.argv[1], int(sys.argv[2]))); c.recv(1)"
    with socket.create_server(("127.0.0.1", 0)) as listener, Processes(directory=directory) as processes:
        listener.settimeout(_TIMEOUT_S)
        address, port = listener.getsockname()
        environment = {"PYTHONHOME": sys.base_prefix}
        name = Path(program).name
        processes.start(name, [program, "-S", "-c", code, address, str(port)], environment=environment)
        connection, source = listener.accept()
        with connection:
            yield (source[0], source[1]), (address, port)


def _figures(seconds: Sequence[float]) -> dict[str, float]:
    return {
        "count": len(seconds),
        "median_us": round(median(seconds) * 1e6, 1),
        "p99_us": round(percentile(seconds, 0.99) * 1e6, 1),
        "max_us": round(max(seconds) * 1e6, 1),
    }


def main(arguments: Sequence[str]) -> int:
    """Measure, print one JSON object a number of held connections, return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.attestation")
    parser.add_argument("--count", type=int, default=2000, help="connections (default: 2000)")
    parser.add_argument(
        "--held", type=int, nargs="+", default=[0, 32, 100, 9900], help="held besides (default: 0 32 100 9900)"
    )
    parser.add_argument("--strangers", type=int, nargs="+", default=[0, 1, 4], help="hashed besides (default: 0 1 4)")
    options = parser.parse_args(arguments)
    raise_descriptor_limit()
    try:
        for held in options.held:
            with tempfile.TemporaryDirectory(prefix="touchmark-bench-") as directory:
                seconds = asyncio.run(measure(held=held, count=options.count, directory=Path(directory)))
            print(json.dumps({"held": held, **_figures(seconds)}))
        with tempfile.TemporaryDirectory(prefix="touchmark-bench-") as directory:
            seconds = asyncio.run(measure_look(count=options.count, directory=Path(directory)))
            print(json.dumps({"look": True, **_figures(seconds)}))
            for strangers in options.strangers:
                work = measure_beside(strangers=strangers, size=1_000_000_000, directory=Path(directory))
                print(json.dumps({"strangers": strangers, "first_ms": round(asyncio.run(work) * 1e3, 1)}))
    except TouchmarkError as error:
        print(f"✗ {error.message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
