"""``python -m bench.first_moment``: what a new process of a known program waits for when it begins with a burst.

A process opens its connections at once, as wrk does, through a pair of sidecars that have no idle tunnel; each round
does it again by a new process. Like wrk, it starts a thread before. Says when its connections were answered, and for
each step of both stories how often it was taken, when it first began and last ended, counted from the first accepted
connection, and how long one took: medians of all rounds. A step that waits holds up only its own connection; what a
thread computes is its processor time.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Final

from rich.console import Console
from rich.table import Table

from bench.accounting import read_usage
from bench.errors import BenchError
from bench.held import SERVER, run_burst
from bench.processes import Processes, free_ports, raise_descriptor_limit
from bench.subjects.sidecar_with_moments import COMPUTED, Moment, read_moments
from bench.subjects.subject import Backends
from bench.subjects.touchmark import run_touchmark_noting_moments
from shared.model.errors import TouchmarkError

_SIDES: Final = ("client", "server")
_TABLE_WIDTH: Final = 110  # A pipe has no width, and a cut table can't be read.
_REST_S: Final = 0.3  # What the burst before has left, such as the records, is done by then.


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """One round, as its process saw it.

    Attributes:
        began, ended: as of ``Moment``.
        seconds: until each connection was answered, in ascending order.
        cpu_ms: what both sidecars spent, in all threads.
    """

    began: float
    ended: float
    seconds: tuple[float, ...]
    cpu_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one step came to in a round, or the medians of several; times in ms from the first accepted connection."""

    side: str
    name: str
    count: float
    first_begins: float
    takes: float
    last_ends: float
    cpu: float | None


def measure(*, connections: int, threads: int, rounds: int, directory: Path) -> tuple[list[Burst], list[list[Step]]]:
    """Run the rounds through one pair and return each burst, and each one's steps.

    Raises:
        BenchError: a part doesn't start, or a connection wasn't answered.
    """
    (port,) = free_ports(1)
    bursts: list[Burst] = []
    with Processes(directory=directory) as backend:
        backend.start("backend", [*SERVER, "127.0.0.1", str(port)])
        backend.wait_until_listening("127.0.0.1", port)
        backends = Backends(http=("127.0.0.1", port), sink=("127.0.0.1", port))
        with run_touchmark_noting_moments(directory, backends) as pair:
            run_burst(pair.http, connections=1, processes=1)  # Credentials, directory answers and policies are there.
            for _ in range(rounds):
                time.sleep(_REST_S)
                before, began = read_usage(pair.pids), time.monotonic()
                (report,) = run_burst(pair.http, connections=connections, processes=1, threads=threads)
                ended, after = time.monotonic(), read_usage(pair.pids)
                if len(report["seconds"]) != connections:
                    raise BenchError(f"of {connections} connections {len(report['seconds'])} were answered")
                seconds = tuple(sorted(report["seconds"]))
                cpu_ms = (after.cpu_us - before.cpu_us) / 1e3
                bursts.append(Burst(began=began, ended=ended, seconds=seconds, cpu_ms=cpu_ms))
            pair.check()
    noted = {side: read_moments(directory / f"sidecar-{side}.moments") for side in _SIDES}
    return bursts, [list_steps(noted, began=burst.began, ended=burst.ended) for burst in bursts]


def list_steps(noted: dict[str, list[Moment]], *, began: float, ended: float) -> list[Step]:
    """Say what became of each step between two moments, in the order in which they first began.

    Raises:
        BenchError: nothing was noted then.
    """
    grouped: dict[tuple[str, str], list[Moment]] = {}
    for side, moments in noted.items():
        for moment in moments:
            if began <= moment.began <= ended:
                grouped.setdefault((side, moment.step), []).append(moment)
    if not grouped:
        raise BenchError("no step was noted")
    start = min(moment.began for moments in grouped.values() for moment in moments)
    steps = [
        Step(
            side=side,
            name=name,
            count=len(moments),
            first_begins=(min(each.began for each in moments) - start) * 1e3,
            takes=median(each.ended - each.began for each in moments) * 1e3,
            last_ends=(max(each.ended for each in moments) - start) * 1e3,
            cpu=sum(each.cpu_ended - each.cpu_began for each in moments) * 1e3 if name == COMPUTED else None,
        )
        for (side, name), moments in grouped.items()
    ]
    return sorted(steps, key=lambda step: step.first_begins)


def summarise_steps(rounds: Iterable[Sequence[Step]]) -> list[Step]:
    """Return the medians of the rounds; a step that wasn't taken in one counts there only as not taken."""
    rounds = list(rounds)
    grouped: dict[tuple[str, str], list[Step]] = {}
    for steps in rounds:
        for step in steps:
            grouped.setdefault((step.side, step.name), []).append(step)
    summary = [
        Step(
            side=side,
            name=name,
            count=median([*(step.count for step in steps), *[0.0] * (len(rounds) - len(steps))]),
            first_begins=median(step.first_begins for step in steps),
            takes=median(step.takes for step in steps),
            last_ends=median(step.last_ends for step in steps),
            cpu=median(step.cpu for step in steps if step.cpu is not None) if name == COMPUTED else None,
        )
        for (side, name), steps in grouped.items()
    ]
    return sorted(summary, key=lambda step: step.first_begins)


def summarise_bursts(bursts: Sequence[Burst]) -> dict[str, float]:
    """Return the medians of the rounds, in ms: the first, the mean and the last answer, and both sidecars' CPU."""
    return {
        "first_ms": median(burst.seconds[0] for burst in bursts) * 1e3,
        "mean_ms": median(mean(burst.seconds) for burst in bursts) * 1e3,
        "last_ms": median(burst.seconds[-1] for burst in bursts) * 1e3,
        "cpu_ms": median(burst.cpu_ms for burst in bursts),
    }


def print_steps(console: Console, steps: Sequence[Step], *, title: str) -> None:
    """Print one row a step."""
    table = Table(title=title)
    for heading in ("sidecar", "step", "times", "first begins", "one takes", "last ends", "cpu"):
        table.add_column(heading, justify="left" if heading in ("sidecar", "step") else "right")
    for step in steps:
        cpu = "" if step.cpu is None else f"{step.cpu:.1f}"
        figures = (f"{each:.1f}" for each in (step.first_begins, step.takes, step.last_ends))
        table.add_row(step.side, step.name, f"{step.count:g}", *figures, cpu)
    console.print(table)


def main(arguments: Sequence[str]) -> int:
    """Measure, print the table or one JSON object, return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.first_moment", description=__doc__.partition(":")[2])
    parser.add_argument("--connections", type=int, default=32, help="opened at once by each process (default: 32)")
    parser.add_argument("--threads", type=int, default=1, help="that the process starts before (default: 1)")
    parser.add_argument("--rounds", type=int, default=10, help="each by a new process (default: 10)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args(arguments)
    if min(options.connections, options.rounds) < 1 or options.threads < 0:
        parser.error("--connections and --rounds are whole numbers from 1 on, --threads from 0 on")
    raise_descriptor_limit()
    try:
        with tempfile.TemporaryDirectory(prefix="touchmark-bench-") as directory:
            bursts, rounds = measure(
                connections=options.connections,
                threads=options.threads,
                rounds=options.rounds,
                directory=Path(directory),
            )
    except TouchmarkError as error:
        print(f"✗ {error.message}", file=sys.stderr)
        return 1
    figures, steps = summarise_bursts(bursts), summarise_steps(rounds)
    if options.json:
        print(json.dumps({**figures, "steps": [asdict(step) for step in steps]}))
        return 0
    title = f"{options.connections} connections at once, medians of {options.rounds} processes; ms"
    print_steps(Console(width=_TABLE_WIDTH), steps, title=title)
    print("answered: " + ", ".join(f"{name.removesuffix('_ms')} {value:.1f} ms" for name, value in figures.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
