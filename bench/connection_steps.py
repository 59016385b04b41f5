"""``python -m bench.connection_steps``: what the processor time of a new connection is made of, on both sides.

wrk makes connections through a pair of sidecars, as for ``new_connections``, or ``bench.load`` one after another, as
for ``first_byte``; with ``--no-reuse`` each has a handshake. Prints microseconds of the sidecar of the client and of
the server for each step, kernel included, and beside their sum what the kernel accounts. Does I/O.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from bench.accounting import read_usage
from bench.errors import BenchError
from bench.processes import Processes, free_ports, raise_descriptor_limit, run_tool
from bench.subjects.nginx import start_web_server
from bench.subjects.sidecar_with_samples import read_samples
from bench.subjects.subject import Address, Backends
from bench.subjects.touchmark import run_touchmark_sampled
from bench.works import CLIENTS, load
from bench.wrk import parse_report, write_script, wrk_command
from shared.model.errors import TouchmarkError

_SIDES: Final = ("client", "server")
_TABLE_WIDTH: Final = 110
_WARM_UP_S: Final = 2
_WRITTEN_S: Final = 60.0
_TOOL_TIMEOUT_S: Final = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was measured.

    Attributes:
        connections: how many were made.
        seconds: by side and step.
        cpu_s: of both sidecars, as the kernel accounts it.
    """

    connections: int
    seconds: dict[str, dict[str, float]]
    cpu_s: float


def measure(directory: Path, *, duration_s: int, one_by_one: int, reuses: bool) -> Outcome:
    """Make connections through a new pair.

    Arguments:
        one_by_one: so many, one after another; 0: 32 clients at once, for ``duration_s``.

    Raises:
        BenchError: a part doesn't start, or a connection failed.
    """
    http, sink = (("127.0.0.1", port) for port in free_ports(2))
    with Processes(directory=directory) as backends:
        start_web_server(backends, directory, http)
        with run_touchmark_sampled(directory, Backends(http=http, sink=sink), reuses=reuses) as pair:
            _connect(pair.http, directory, _WARM_UP_S)
            _signal(pair.pids, signal.SIGUSR1)
            before = read_usage(pair.pids)
            if one_by_one:
                connections = len(load("first-byte", pair.http, one_by_one)["seconds"])
            else:
                connections = _connect(pair.http, directory, duration_s)
            after = read_usage(pair.pids)
            _signal(pair.pids, signal.SIGUSR2)
            paths = {side: directory / f"sidecar-{side}.samples" for side in _SIDES}
            deadline = time.monotonic() + _WRITTEN_S
            while not all(path.exists() for path in paths.values()):
                pair.check()
                if time.monotonic() > deadline:
                    raise BenchError("a sidecar hasn't written its samples")
                time.sleep(0.05)
            seconds = {side: read_samples(path) for side, path in paths.items()}
    return Outcome(connections=connections, seconds=seconds, cpu_s=(after.cpu_us - before.cpu_us) / 1e6)


def _connect(address: Address, directory: Path, duration_s: int) -> int:
    command = wrk_command(
        script=write_script(directory),
        address=address[0],
        port=address[1],
        connections=CLIENTS,
        duration_s=duration_s,
        keeps_alive=False,
    )
    return parse_report(run_tool(command, timeout_s=duration_s + _TOOL_TIMEOUT_S)).requests


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)


def tabulate(outcome: Outcome) -> list[tuple[str, float, float]]:
    """Return each step with its µs a connection at the client's and at the server's sidecar, the dearest first."""
    client, server = (outcome.seconds[side] for side in _SIDES)
    each = 1e6 / outcome.connections
    rows = [(step, client.get(step, 0.0) * each, server.get(step, 0.0) * each) for step in {**client, **server}]
    return sorted(rows, key=lambda row: -row[1] - row[2])


def print_outcome(console: Console, outcome: Outcome) -> None:
    """Print the table."""
    table = Table("step", "client's sidecar, µs", "server's sidecar, µs", title=f"{outcome.connections} connections")
    rows = tabulate(outcome)
    for step, client, server in rows:
        table.add_row(step, f"{client:.1f}", f"{server:.1f}")
    table.add_section()
    table.add_row("sum", f"{sum(row[1] for row in rows):.0f}", f"{sum(row[2] for row in rows):.0f}")
    console.print(table)
    console.print(f"as the kernel accounts it: {outcome.cpu_s * 1e6 / outcome.connections:.0f} µs of both")


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.connection_steps", description=__doc__.partition(":")[0])
    parser.add_argument("--duration", type=int, default=8, help="seconds, with 32 clients at once")
    parser.add_argument("--one-by-one", type=int, default=0, help="so many connections, one after another, instead")
    parser.add_argument("--no-reuse", action="store_true", help="each connection has a tunnel of its own")
    options = parser.parse_args(arguments)
    raise_descriptor_limit()
    try:
        with tempfile.TemporaryDirectory(prefix="touchmark-bench-") as directory:
            outcome = measure(
                Path(directory),
                duration_s=options.duration,
                one_by_one=options.one_by_one,
                reuses=not options.no_reuse,
            )
    except TouchmarkError as error:
        print(f"✗ {error.message}", file=sys.stderr)
        return 1
    print_outcome(Console(width=_TABLE_WIDTH), outcome)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
