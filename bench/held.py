"""``python -m bench.held``: a burst of connections that are all opened at once and held, through a pair of sidecars.

Pairs of numbers, ``CONNECTIONSxPROCESSES``: so many connections in all, from so many processes of one program. Says how
many were answered, how long after the start, and the CPU time that both sidecars spent on each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.accounting import read_usage
from bench.errors import BenchError
from bench.figures import percentile
from bench.held_program import TIMEOUT_S
from bench.processes import REPOSITORY, Processes, free_ports, own_python, raise_descriptor_limit
from bench.subjects.subject import Backends
from bench.subjects.touchmark import run_touchmark
from shared.model.errors import TouchmarkError

_PROGRAM: Final = [own_python(), "-m", "bench.held_program"]
SERVER: Final = [*_PROGRAM, "serve"]  # Its address and port follow.


def measure(*, connections: int, processes: int, directory: Path) -> dict[str, Any]:
    """Run one burst through a fresh pair and return its figures.

    Raises:
        BenchError: a part doesn't start, or a process gives no report.
    """
    (port,) = free_ports(1)
    with Processes(directory=directory) as backend:
        backend.start("backend", [*SERVER, "127.0.0.1", str(port)])
        backend.wait_until_listening("127.0.0.1", port)
        backends = Backends(http=("127.0.0.1", port), sink=("127.0.0.1", port))
        with run_touchmark(directory, backends) as pair:
            run_burst(pair.http, connections=1, processes=1)  # Credentials, directory answers and policies are there.
            before = read_usage(pair.pids)
            reports = run_burst(pair.http, connections=connections, processes=processes)
            after = read_usage(pair.pids)
            pair.check()
    seconds = sorted(each for report in reports for each in report["seconds"])
    ends: dict[str, int] = {}
    for report in reports:
        for how, count in report["ends"].items():
            ends[how] = ends.get(how, 0) + count
    return {
        "connections": connections,
        "processes": processes,
        "answered": len(seconds),
        "ends": ends,
        "median_s": round(median(seconds), 3) if seconds else None,
        "p99_s": round(percentile(seconds, 0.99), 3) if seconds else None,
        "last_s": seconds[-1] if seconds else None,
        "cpu_ms_each": round((after.cpu_us - before.cpu_us) / connections / 1e3, 3),
    }


def run_burst(address: tuple[str, int], *, connections: int, processes: int, threads: int = 0) -> list[dict[str, Any]]:
    """Start the processes, have all open their share at once, and return their reports; they have ended then.

    Arguments:
        threads: idle ones that each process starts before.

    Raises:
        BenchError: one gives no report.
    """
    shares = [connections // processes + (number < connections % processes) for number in range(processes)]
    running = [
        subprocess.Popen(
            [*_PROGRAM, "open", address[0], str(address[1]), str(share), str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY, text=True,
        )
        for share in shares
    ]  # fmt: skip
    try:
        for process in running:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        reports = []
        for process in running:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise BenchError("a process that opened connections gave no report")
            reports.append(json.loads(line))
    finally:
        for process in running:
            process.communicate(timeout=TIMEOUT_S)
    return reports


def _shape(text: str) -> tuple[int, int]:
    connections, _, processes = text.partition("x")
    if not (connections.isdecimal() and processes.isdecimal()) or not 0 < int(processes) <= int(connections):
        raise argparse.ArgumentTypeError(f"{text!r} isn't CONNECTIONSxPROCESSES")
    return int(connections), int(processes)


def main(arguments: Sequence[str]) -> int:
    """Measure, print one JSON object a burst, return the exit status: 1 when a connection wasn't answered."""
    parser = argparse.ArgumentParser(prog="python -m bench.held")
    parser.add_argument("shapes", type=_shape, nargs="*", default=[(2000, 1), (4000, 1), (4000, 20)])
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="keep logs in a new directory")
    options = parser.parse_args(arguments)
    raise_descriptor_limit()
    status = 0
    try:
        for connections, processes in options.shapes:
            with tempfile.TemporaryDirectory(prefix="touchmark-bench-") as temporary:
                directory = Path(temporary)
                if options.keep is not None:
                    directory = options.keep / f"{connections}x{processes}"
                    directory.mkdir(parents=True)
                figures = measure(connections=connections, processes=processes, directory=directory)
            print(json.dumps(figures), flush=True)
            status |= figures["answered"] != connections
    except TouchmarkError as error:
        print(f"✗ {error.message}", file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
