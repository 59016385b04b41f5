"""The kinds of load, each run once for one subject and returning its samples.

Belongs here: which load generator runs for how long, and what its result and the kernel's accounting come to. Doesn't:
the order of rounds (``run.py``). Does I/O.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.accounting import Usage, read_usage
from bench.errors import BenchError
from bench.figures import Metric, Sample, percentile
from bench.processes import REPOSITORY, own_python, run_tool
from bench.subjects.subject import Address, RunningSubject
from bench.wrk import parse_report, write_script, wrk_command

CLIENTS: Final = 32
MANY_CLIENTS: Final = 256
STREAMS: Final = 8
IDLE_CONNECTIONS: Final = 1000
FIRST_BYTES: Final = 500
_MIB: Final = 1024 * 1024
_SETTLE_S: Final = 0.5
_TOOL_TIMEOUT_S: Final = 120.0


class Work(StrEnum):
    """One kind of load.

    ``new_connections_no_reuse`` is the same load as ``new_connections``; it differs for a subject that reuses tunnels,
    which is started then with reuse off. ``small_requests_again`` is that of ``small_requests`` by a program that has
    just done the same for a second. Memory comes first where no order is asked for: after other loads, what is measured
    is how much these have freed that an open connection uses again.
    """

    MEMORY_IDLE = "memory_idle"
    MEMORY_PER_CONNECTION = "memory_per_connection"
    BULK = "bulk"
    BULK_STREAMS = "bulk_8_streams"
    SMALL_REQUESTS = "small_requests"
    SMALL_REQUESTS_AGAIN = "small_requests_again"
    SMALL_REQUESTS_ALONE = "small_requests_1"
    SMALL_REQUESTS_MANY = "small_requests_256"
    NEW_CONNECTIONS = "new_connections"
    NEW_CONNECTIONS_NO_REUSE = "new_connections_no_reuse"
    FIRST_BYTE = "first_byte"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much of each load.

    Attributes:
        duration_s: of a work whose load is counted, whole seconds.
        bulk_mib: sent over one connection.
    """

    duration_s: int = 4
    bulk_mib: int = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One work for one running subject, with a directory for scratch files."""

    work: Work
    name: str
    subject: RunningSubject
    scale: Scale
    directory: Path

    def sample(self, metric: Metric, unit: str, value: float) -> Sample:
        """Return a sample of this work and subject."""
        return Sample(work=self.work, subject=self.name, metric=metric, unit=unit, value=value)

    def usage(self) -> Usage:
        """Return what the subject's processes have used so far."""
        return read_usage(self.subject.pids)


def run_work(task: Task) -> list[Sample]:
    """Run the work once and return its samples.

    Raises:
        BenchError: the load failed, even for one connection, or the subject ended.
    """
    task.subject.check()
    try:
        samples = _WORKS[task.work](task)
    except BenchError:
        # A load that fails knows less than a process that has ended: its status, and what it said last.
        task.subject.check()
        raise
    task.subject.check()
    return samples


def warm_up(subject: RunningSubject) -> None:
    """Carry one connection to each backend: credentials, directory answers and code paths are then there.

    Raises:
        BenchError: the subject doesn't carry them.
    """
    load("first-byte", subject.http, 2)
    load("bulk", subject.sink, 1)


def _bulk(task: Task, *, streams: int = 1) -> list[Sample]:
    before = task.usage()
    result = load("bulk", task.subject.sink, task.scale.bulk_mib, streams)
    after = task.usage()
    mebibytes = result["bytes"] / _MIB
    return [
        task.sample(Metric.RATE, "MB/s", result["bytes"] / 1e6 / result["seconds"]),
        *_usage_samples(task, before, after, mebibytes, "MiB"),
    ]


def _requests(task: Task, *, keeps_alive: bool, unit: str, clients: int = CLIENTS) -> list[Sample]:
    script = write_script(task.directory)
    address, port = task.subject.http
    command = wrk_command(
        script=script,
        address=address,
        port=port,
        connections=clients,
        duration_s=task.scale.duration_s,
        keeps_alive=keeps_alive,
    )
    before = task.usage()
    report = parse_report(run_tool(command, timeout_s=task.scale.duration_s + _TOOL_TIMEOUT_S))
    after = task.usage()
    return [
        task.sample(Metric.RATE, f"{unit}s/s", report.rate),
        task.sample(Metric.LATENCY_P50, "ms", report.p50_us / 1e3),
        task.sample(Metric.LATENCY_P99, "ms", report.p99_us / 1e3),
        *_usage_samples(task, before, after, report.requests, unit),
    ]


def _small_requests(task: Task, *, clients: int = CLIENTS) -> list[Sample]:
    return _requests(task, keeps_alive=True, unit="request", clients=clients)


def _small_requests_again(task: Task) -> list[Sample]:
    """Without a program's first moment, which makes the 99th percentile of a run of seconds."""
    _small_requests(dataclasses.replace(task, scale=dataclasses.replace(task.scale, duration_s=1)))
    return _small_requests(task)


def _new_connections(task: Task) -> list[Sample]:
    return _requests(task, keeps_alive=False, unit="connection")


def _first_byte(task: Task) -> list[Sample]:
    before = task.usage()
    seconds = load("first-byte", task.subject.http, FIRST_BYTES)["seconds"]
    after = task.usage()
    return [
        task.sample(Metric.LATENCY_P50, "ms", percentile(seconds, 0.5) * 1e3),
        task.sample(Metric.LATENCY_P99, "ms", percentile(seconds, 0.99) * 1e3),
        task.sample(Metric.CPU, "us/connection", (after.cpu_us - before.cpu_us) / len(seconds)),
    ]


def _memory_idle(task: Task) -> list[Sample]:
    time.sleep(_SETTLE_S)
    return [task.sample(Metric.RSS, "MiB", task.usage().rss_bytes / _MIB)]


def _memory_per_connection(task: Task) -> list[Sample]:
    address, port = task.subject.http
    time.sleep(_SETTLE_S)
    before = task.usage()
    command = [own_python(), "-m", "bench.load", "idle", address, str(port), str(IDLE_CONNECTIONS)]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stderr is not None
        try:
            line = holder.stdout.readline()
            if not line:
                raise BenchError(f"holding {IDLE_CONNECTIONS} connections: {holder.stderr.read().decode()[-300:]}")
            time.sleep(_SETTLE_S)
            during = task.usage()
            holder.stdin.close()
            if holder.wait(_TOOL_TIMEOUT_S):
                raise BenchError(f"holding {IDLE_CONNECTIONS} connections: {holder.stderr.read().decode()[-300:]}")
        finally:
            holder.kill()
    per_connection = (during.rss_bytes - before.rss_bytes) / IDLE_CONNECTIONS
    return [
        task.sample(Metric.RSS, "KiB/connection", per_connection / 1024),
        task.sample(Metric.RSS_OPEN, "MiB", during.rss_bytes / _MIB),
    ]


def _usage_samples(task: Task, before: Usage, after: Usage, count: float, unit: str) -> list[Sample]:
    return [
        task.sample(Metric.CPU, f"us/{unit}", (after.cpu_us - before.cpu_us) / count),
        task.sample(Metric.RSS, "MiB", after.rss_bytes / _MIB),
    ]


def load(kind: str, address: Address, *numbers: int) -> dict[str, Any]:
    """Run one of ``load.py``'s generators against an address and return its result.

    Raises:
        BenchError: a connection was lost or refused.
    """
    output = run_tool(
        [own_python(), "-m", "bench.load", kind, address[0], str(address[1]), *map(str, numbers)],
        timeout_s=_TOOL_TIMEOUT_S,
    )
    result: dict[str, Any] = json.loads(output)
    return result


_WORKS: Final[dict[Work, Callable[[Task], list[Sample]]]] = {
    Work.BULK: _bulk,
    Work.BULK_STREAMS: partial(_bulk, streams=STREAMS),
    Work.SMALL_REQUESTS: _small_requests,
    Work.SMALL_REQUESTS_AGAIN: _small_requests_again,
    Work.SMALL_REQUESTS_ALONE: partial(_small_requests, clients=1),
    Work.SMALL_REQUESTS_MANY: partial(_small_requests, clients=MANY_CLIENTS),
    Work.NEW_CONNECTIONS: _new_connections,
    Work.NEW_CONNECTIONS_NO_REUSE: _new_connections,
    Work.FIRST_BYTE: _first_byte,
    Work.MEMORY_IDLE: _memory_idle,
    Work.MEMORY_PER_CONNECTION: _memory_per_connection,
}
