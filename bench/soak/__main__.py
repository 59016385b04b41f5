"""``python -m bench.soak``: load → disturb → let it end → judge → report. Exit code 1 when the run doesn't hold."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.errors import BenchError
from bench.page import Page
from bench.processes import raise_descriptor_limit
from bench.soak.clients import TIMEOUT_S as CLIENT_TIMEOUT_S
from bench.soak.disturbances import deny_and_allow, lose_ca, lose_peer
from bench.soak.judgement import FAULT_REASONS, Kept, Sample, Window, find_faults, find_unexplained, read_failures
from bench.soak.mesh import ADDRESSES, Mesh, running_mesh, sum_of
from bench.soak.report import write_report

_PREFIX: Final = "touchmark_sidecar_"
_CIRCLE_S: Final = 60.0
_SHORTEST_S: Final = 20.0
_SETTLE_S: Final = 5.0


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600, help="of load (default: %(default)s)")
    parser.add_argument("--programs", type=float, default=200, help="short programs a second (default: %(default)s)")
    parser.add_argument("--key-bytes", type=int, metavar="BYTES", help="renew TLS keys after it; default: as released")
    parser.add_argument("--report", type=Path, metavar="FILE", help="page whose marked part the report replaces")
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="where logs and records stay")
    given = parser.parse_args(arguments)
    if given.seconds < _SHORTEST_S:
        parser.error(f"--seconds: at least {_SHORTEST_S:g}")
    return given


class Run:
    """One soak: waits and samples between what is done."""

    def __init__(self, mesh: Mesh, seconds: float) -> None:
        self._mesh = mesh
        self._deadline = time.monotonic() + seconds
        self._sample_s = seconds / 60
        self._sampled_at = 0.0
        self.samples: list[Sample] = []
        self.windows: list[Window] = []

    def wait(self, seconds: float) -> None:
        """Let the load run, and look at the living sidecar while it does."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._mesh.check()
            self._sample()
            time.sleep(min(0.2, max(0.0, until - time.monotonic())))

    def disturb(self) -> None:
        """Go through all disturbances, again and again, until the time is over."""
        left_s = self._deadline - time.monotonic()
        circle_s = min(_CIRCLE_S, left_s)
        part_s = circle_s / 6
        while self._deadline - time.monotonic() >= circle_s * 0.9:
            self.windows.append(deny_and_allow(self._mesh, self.wait, part_s / 2))
            self.wait(part_s / 2)
            lose_ca(self._mesh, self.wait, part_s)
            self.windows.append(lose_peer(self._mesh, self.wait, part_s))
            self.wait(part_s)
        self.wait(max(0.0, self._deadline - time.monotonic()))

    def _sample(self) -> None:
        if time.monotonic() - self._sampled_at < self._sample_s:
            return
        self._sampled_at = time.monotonic()
        found = self._mesh.read_metrics("left")
        if "process_open_fds" not in found:
            return
        # A connection has two descriptors, a tunnel one; what is served for a peer is a tunnel and a connection.
        used = found[f"{_PREFIX}idle_tunnels"] + found[f'{_PREFIX}places_used{{bound="peers"}}']
        used += 2 * sum_of(found, f"{_PREFIX}connections") + found[f'{_PREFIX}places_used{{bound="handshakes"}}']
        self.samples.append(
            Sample(
                at=time.time(),
                memory_bytes=int(found["process_resident_memory_bytes"]),
                descriptors=int(found["process_open_fds"] - used),
            )
        )


def sum_up(mesh: Mesh, sums: Sequence[dict[str, int]]) -> Kept:
    """Say what the left sidecar, which was never killed, has recorded and lost. It has ended."""
    records = [line for line in mesh.read_lines("left.decisions") if line["phase"] == "end"]
    events = mesh.read_lines("left-sidecar.err")
    stopped = [line for line in events if line["event"] == "sidecar_stopped"]
    return Kept(
        connected=sum(each["connected"] for each in sums),
        unknown=sum(each["unknown"] for each in sums),
        recorded=sum(line["direction"] == "egress" for line in records),
        lost=int(stopped[0]["records_lost"]) if stopped else -1,
        events=dict(Counter(line["event"] for line in events)),
        reasons=dict(Counter(line["reason"] for line in records)),
        details=dict(
            Counter(
                f"{side}: {line['reason']}: {line['detail']}"
                for side in ADDRESSES
                for line in mesh.read_lines(f"{side}.decisions")
                if line["phase"] == "end" and line["reason"] in FAULT_REASONS
            )
        ),
    )


def soak(arguments: argparse.Namespace, directory: Path) -> tuple[str, list[str]]:
    """Run, and return the report and what is wrong."""
    with running_mesh(directory, key_bytes=arguments.key_bytes) as mesh:
        mesh.approve()
        for side in ADDRESSES:
            mesh.start_load(side, arguments.programs / len(ADDRESSES))
        loads = [f"{side}-{kind}" for side in ADDRESSES for kind in ("load", "programs")]
        run = Run(mesh, arguments.seconds)
        run.disturb()
        for name in loads:
            # It ends after what is under way.
            mesh.stop(name, timeout_s=CLIENT_TIMEOUT_S + 30)
        run.wait(_SETTLE_S)
        for side in ADDRESSES:
            mesh.stop(f"{side}-sidecar")
        outputs = {name: mesh.read_lines(f"{name}.out") for name in loads}
        sums = {name: lines[-1]["sums"] for name, lines in outputs.items()}
        failures = [each for name, lines in outputs.items() for each in read_failures(name, lines)]
        kept = sum_up(mesh, [each for name, each in sums.items() if name.startswith("left-")])
    unexplained = find_unexplained(failures, run.windows)
    faults = find_faults(kept, unexplained, run.samples)
    command = f"python -m bench.soak --seconds {arguments.seconds:g} --programs {arguments.programs:g}"
    command += f" --key-bytes {arguments.key_bytes}" if arguments.key_bytes is not None else ""
    report = write_report(
        command=command,
        kept=kept,
        sums=[(name, each["attempts"], each["verified_bytes"]) for name, each in sums.items()],
        failures=failures,
        windows=run.windows,
        samples=run.samples,
        faults=faults,
    )
    return report, faults


def main(arguments: Sequence[str]) -> int:
    """Run it and print the report."""
    given = parse_arguments(arguments)
    raise_descriptor_limit()
    try:
        if given.report is not None:
            Page(path=given.report, name="soak").split()  # Before, not after all the time that it takes.
        if given.keep is not None:
            given.keep.mkdir(parents=True)
            report, faults = soak(given, given.keep)
        else:
            with tempfile.TemporaryDirectory(prefix="touchmark-soak-") as directory:
                report, faults = soak(given, Path(directory))
        print(report)
        if given.report is not None:
            Page(path=given.report, name="soak").put(report)
    except BenchError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return error.exit_code
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
