"""``python -m bench.growth``: how costs grow with what surrounds a connection; figures and a picture of them.

Six axes, each from one or few to the largest number that is promised: connections held through a pair of sidecars,
descriptors of the program that connects, processes that connect at once, programs that are known, rules of a namespace,
addresses in the directory. Belongs here: the axes, their steps, the order. Doesn't: drawing (``growth_picture.py``).
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import msgspec

from bench.accounting import read_usage
from bench.attestation import measure as measure_attestations
from bench.directory import measure as measure_directory
from bench.errors import BenchError
from bench.growth_picture import draw
from bench.holding import measure_workers
from bench.policy import make_state, time_decisions
from bench.processes import REPOSITORY, Processes, free_ports, own_python, raise_descriptor_limit
from bench.subjects.nginx import start_web_server
from bench.subjects.subject import Backends
from bench.subjects.touchmark import max_connections, run_touchmark
from bench.works import load
from shared.model.errors import TouchmarkError
from shared.model.policy.evaluate import compile_namespace
from sidecar.attestor import Attestor

_TIMEOUT_S: Final = 60.0
_FRESH: Final = 300
_LOOKS: Final = 500


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """One axis: what a thing costs beside so many others.

    Attributes:
        axis: what there is more and more of.
        cost: what is measured, with its unit.
        points: number and cost, in rising order of the number.
    """

    axis: str
    cost: str
    points: list[tuple[int, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """What is measured at which steps; ``measure`` takes the step and an empty directory and returns the cost.

    ``most`` is what this machine allows."""

    name: str
    cost: str
    steps: Sequence[int]
    measure: Callable[[int, Path], float]
    most: Callable[[], int] = lambda: sys.maxsize


def measure_beside_connections(held: int, directory: Path) -> float:
    """Return both sidecars' CPU, µs, of a fresh connection while so many others are held through them.

    Raises:
        BenchError: a part doesn't start, or a connection isn't carried.
    """
    (port,) = free_ports(1)
    address = ("127.0.0.1", port)
    with Processes(directory=directory) as processes:
        start_web_server(processes, directory, address)
        with run_touchmark(directory, Backends(http=address, sink=address)) as pair:
            load("first-byte", pair.http, _FRESH)
            holder = subprocess.Popen(
                [own_python(), "-m", "bench.load", "idle", pair.http[0], str(pair.http[1]), str(held)],
                cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
            try:
                assert holder.stdout is not None
                if not holder.stdout.readline():
                    raise BenchError(f"{held} connections couldn't be held")
                before = read_usage(pair.pids)
                load("first-byte", pair.http, _FRESH)
                after = read_usage(pair.pids)
                pair.check()
            finally:
                holder.communicate()
            if holder.returncode:
                raise BenchError(f"of {held} held connections some were lost")
    return (after.cpu_us - before.cpu_us) / _FRESH


def measure_beside_descriptors(descriptors: int, directory: Path) -> float:
    """Return the median µs of one attestation of a known program that has so many descriptors."""
    return median(asyncio.run(measure_attestations(held=descriptors, count=_LOOKS, directory=directory))) * 1e6


def measure_processes(processes: int, directory: Path) -> float:
    """Return the ms that the attestation of each of so many processes takes which connect at once."""
    return asyncio.run(measure_workers(workers=processes, directory=directory))["again_s"] / processes * 1e3


def measure_beside_programs(programs: int, directory: Path) -> float:
    """Return the median ms of the first connection of a process whose program is one of so many known ones."""
    return asyncio.run(_attest_programs(programs, directory)) * 1e3


async def _attest_programs(programs: int, directory: Path) -> float:
    bash = shutil.which("bash")
    if bash is None:
        raise BenchError("no bash, whose copies are the programs")
    attestor = Attestor()
    seconds: list[float] = []
    try:
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
            listener.settimeout(_TIMEOUT_S)
            address, port = listener.getsockname()
            paths = []
            for number in range(programs):
                path = directory / f"program{number}"
                shutil.copy(bash, path)
                with path.open("ab") as file:
                    file.write(number.to_bytes(8, "big"))
                paths.append(path)
            turns = -(-_LOOKS // 10 // programs)
            for turn in range(turns + 1):
                for path in paths:
                    with ExitStack() as stack:
                        stack.callback(_connect(path, address, port).wait)
                        connection, source = listener.accept()
                        stack.enter_context(connection)
                        started = time.perf_counter()
                        await attestor.attest(source, (address, port))
                        if turn:
                            seconds.append(time.perf_counter() - started)
    finally:
        attestor.close()
    return median(seconds)


def _connect(bash: Path, address: str, port: int) -> subprocess.Popen[bytes]:
    """Start a copy of bash that connects and waits until the other side closes."""
    return subprocess.Popen([bash, "-c", f"exec 3<>/dev/tcp/{address}/{port}; read -r -u 3"], stdin=subprocess.DEVNULL)


def measure_among_rules(rules: int, _: Path) -> float:
    """Return the median µs of a decision among so many rules of 20 networks each that don't match."""
    return time_decisions(compile_namespace(make_state(rules)))["stranger_us"]


def measure_among_addresses(addresses: int, _: Path) -> float:
    """Return the µs of looking one of so many known addresses up."""
    return asyncio.run(measure_directory(addresses))["look_us"]


AXES: Final = (
    Axis(
        name="connections", cost="CPU of a fresh connection, both sidecars, µs", steps=(1, 100, 1000, 4500, 9000),
        measure=measure_beside_connections, most=max_connections,
    ),
    Axis(
        name="descriptors", cost="attestation of a known program, µs", steps=(10, 100, 1000, 10_000),
        measure=measure_beside_descriptors,
    ),
    Axis(
        name="processes", cost="attestation of each that connects, ms", steps=(2, 10, 50, 150, 500),
        measure=measure_processes,
    ),
    Axis(
        name="programs", cost="attestation of a new process of a known one, ms", steps=(1, 10, 50, 200),
        measure=measure_beside_programs,
    ),
    Axis(name="rules", cost="a decision, µs", steps=(1, 10, 100, 1000, 10_000), measure=measure_among_rules),
    Axis(
        name="addresses", cost="a look-up, µs", steps=(1, 100, 10_000, 100_000), measure=measure_among_addresses
    ),
)  # fmt: skip


def grow(axis: Axis, *, at_most: int, say: Callable[[str], None]) -> Series:
    """Measure one axis at all its steps up to ``at_most``.

    Raises:
        BenchError: a step couldn't be measured.
    """
    points = []
    most = axis.most()
    for step in axis.steps:
        if most < step <= at_most:
            say(f"{axis.name} {step:,}: left out, the limit on open files (`ulimit -n`) allows {most:,}")
        elif step <= at_most:
            with tempfile.TemporaryDirectory(prefix="touchmark-bench-") as directory:
                points.append((step, round(axis.measure(step, Path(directory)), 3)))
            say(f"{axis.name} {step:,}: {points[-1][1]:,} ({axis.cost})")
    return Series(axis=axis.name, cost=axis.cost, points=points)


def main(arguments: Sequence[str]) -> int:
    """Measure, print one JSON object an axis, write the picture, return the exit status."""
    names = [axis.name for axis in AXES]
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description="Measure how costs grow, and draw it.")
    parser.add_argument("--axes", nargs="+", choices=names, default=names, help="default: all")
    parser.add_argument("--at-most", type=int, default=sys.maxsize, metavar="N", help="leave out the steps beyond")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw them, as SVG or PNG by the file's name")
    options = parser.parse_args(arguments)
    raise_descriptor_limit()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        grown = [grow(axis, at_most=options.at_most, say=say) for axis in AXES if axis.name in options.axes]
        if options.json is not None:
            options.json.write_bytes(msgspec.json.format(msgspec.json.encode(grown)) + b"\n")
        if options.picture is not None:
            draw([(each.axis, each.cost, each.points) for each in grown], options.picture)
    except TouchmarkError as error:
        print(f"✗ {error.message} {error.hint}".rstrip(), file=sys.stderr)
        return 1
    except OSError as error:
        print(f"✗ {error}", file=sys.stderr)
        return 1
    for each in grown:
        print(msgspec.json.encode(each).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
