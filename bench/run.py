"""One run: rounds of works, subjects in turn, a fresh start of every subject for each round.

Belongs here: the order and what happens when a subject fails. Doesn't: loads (``works.py``), subjects (``subjects/``).
Within a round the subjects take turns in each work, and who goes first changes from round to round, so that a noisy
neighbour doesn't always meet the same one.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.errors import BenchError
from bench.figures import Sample
from bench.namespaces import server_addresses
from bench.processes import Processes, own_python, raise_descriptor_limit
from bench.subjects.envoy import run_envoy
from bench.subjects.ghostunnel import run_ghostunnel
from bench.subjects.haproxy import run_haproxy
from bench.subjects.nginx import run_nginx, start_web_server
from bench.subjects.rust_floor import run_rust_floor, run_rust_floor_no_reuse
from bench.subjects.stunnel import run_stunnel
from bench.subjects.subject import Backends, Network, RunningSubject, Starter
from bench.subjects.touchmark import (
    run_touchmark,
    run_touchmark_no_reuse,
    run_touchmark_python,
    run_touchmark_python_no_reuse,
)
from bench.subjects.ztunnel import run_ztunnel, run_ztunnel_no_reuse
from bench.works import Scale, Task, Work, run_work, warm_up

SUBJECTS: Final[Mapping[str, Starter]] = {
    "touchmark": run_touchmark,
    "touchmark-python": run_touchmark_python,
    "envoy": run_envoy,
    "nginx": run_nginx,
    "haproxy": run_haproxy,
    "stunnel": run_stunnel,
    "ghostunnel": run_ghostunnel,
    "rust-floor": run_rust_floor,
    "ztunnel": run_ztunnel,
}
NO_REUSE: Final[Mapping[str, Starter]] = {
    **SUBJECTS,
    "touchmark": run_touchmark_no_reuse,
    "touchmark-python": run_touchmark_python_no_reuse,
    "rust-floor": run_rust_floor_no_reuse,
    "ztunnel": run_ztunnel_no_reuse,
}
# Whose server side can have a network namespace of its own; ztunnel's must.
IN_NAMESPACES: Final = ("touchmark", "touchmark-python", "envoy", "ztunnel")

Say = Callable[[str], None]


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a run came to: the samples, and why each subject that failed did."""

    samples: list[Sample] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)


def run_rounds(
    subjects: Sequence[str],
    works: Sequence[Work],
    *,
    rounds: int,
    scale: Scale,
    say: Say,
    keep_logs: Path | None = None,
    network: Network | None = None,
) -> Outcome:
    """Run everything and return what was measured.

    A subject that fails is left out from then on, with all its samples: half a comparison isn't one.

    Arguments:
        network: what backends and server sides run behind, if not on loopback beside the client sides.

    Raises:
        BenchError: the backends don't start.
    """
    raise_descriptor_limit()
    outcome = Outcome()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="touchmark-bench-")))
        if keep_logs is not None:
            directory = keep_logs
        backends = _start_backends(stack, directory, network)
        for number in range(rounds):
            if len(outcome.failures) == len(subjects):
                break  # Nobody is left to measure.
            began = time.monotonic()
            say(f"round {number + 1} of {rounds}")
            place = directory / f"round{number}"
            turn = [*subjects[number % len(subjects) :], *subjects[: number % len(subjects)]]
            with_reuse = [work for work in works if work is not Work.NEW_CONNECTIONS_NO_REUSE]
            without_reuse = [work for work in works if work is Work.NEW_CONNECTIONS_NO_REUSE]
            for group, starters, name in ((with_reuse, SUBJECTS, "reuse"), (without_reuse, NO_REUSE, "no-reuse")):
                if group:
                    _run_round(outcome, turn, group, starters, place / name, backends, scale, say)
            if left := rounds - number - 1:
                took_s = time.monotonic() - began
                say(f"  took {took_s:.0f} s; {left} more, about {left * took_s:.0f} s")
    outcome.samples = [sample for sample in outcome.samples if sample.subject not in outcome.failures]
    return outcome


def _run_round(
    outcome: Outcome,
    subjects: Sequence[str],
    works: Sequence[Work],
    starters: Mapping[str, Starter],
    directory: Path,
    backends: Backends,
    scale: Scale,
    say: Say,
) -> None:
    left = [name for name in subjects if name not in outcome.failures]
    if not left:
        return
    with contextlib.ExitStack() as stack:
        running: dict[str, tuple[RunningSubject, Path]] = {}
        say(f"  starting {', '.join(left)}")  # Which takes minutes where one is built first.
        for name in left:
            place = directory / name
            place.mkdir(parents=True)
            try:
                subject = stack.enter_context(starters[name](place, backends))
                warm_up(subject)
            except BenchError as error:
                _note_failure(outcome, name, "start", error, say)
                continue
            running[name] = subject, place
        # Idle memory comes first, whatever order was asked for: after other loads it would be another figure.
        for work in sorted(works, key=lambda work: work is not Work.MEMORY_IDLE):
            if running:
                say(f"  {work}: {', '.join(running)}")
            for name, (subject, place) in list(running.items()):
                try:
                    task = Task(work=work, name=name, subject=subject, scale=scale, directory=place)
                    outcome.samples += run_work(task)
                except BenchError as error:
                    _note_failure(outcome, name, work, error, say)
                    del running[name]


def _note_failure(outcome: Outcome, name: str, step: str, error: BenchError, say: Say) -> None:
    outcome.failures[name] = f"{step}: {error.message}" + (f" ({error.hint})" if error.hint else "")
    say(f"✗ {name}: {outcome.failures[name]}")


def _start_backends(stack: contextlib.ExitStack, directory: Path, network: Network | None) -> Backends:
    enter = () if network is None else network.enter
    processes = stack.enter_context(Processes(directory=directory, enter=enter))
    http, sink = server_addresses(network, 2)
    start_web_server(processes, directory, http)
    processes.start("sink", [own_python(), "-m", "bench.sink", sink[0], str(sink[1])])
    processes.wait_until_listening(*sink)
    return Backends(http=http, sink=sink, network=network)
