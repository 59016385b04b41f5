"""``python -m bench.stalls``: for how long the event loop gets no turn while a sidecar's heavy work goes on beside it.

A loop ticks every millisecond and notes by how much its ticks were late: by slices on the loop itself that are too
long, and by threads that keep the interpreter's lock. Other processes' share of that is left out as far as it can be
told: the loop's thread comes first where root runs it, and time in which this process used no processor doesn't count
(``none`` is the loop alone, ``longest_wall_ms`` counts everything). A thread that is put aside while it holds the lock
still counts: the busier the machine, the longer.

``longest_own_ms`` is what the loop's own thread computed in one go, that is, in one turn of the loop, after which it
asks the kernel for whatever else is ready; the first after a rest may be two or three turns. ``turns_above_5_ms`` of
all ``turns``: on a virtual machine time in which the host ran something else counts, so that ``none`` has such turns
as well.

The work: a search for the holders of sockets beside a program with 10,000 connections (``holders``), the hash of a
program of 1 GB (``hash``), first looks at 500 processes and later ones at all their live connections (``looks``), and a
policy of 10,000 rules that is decoded, compiled and put in force in place of another one of as many, and comes once
more (``policy``).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from bench.attestation import one_connection
from bench.errors import BenchError
from bench.figures import percentile
from bench.policy import install, make_state
from bench.processes import Processes, own_python, raise_descriptor_limit
from shared.model.errors import TouchmarkError
from shared.model.policy.reasons import Reason
from shared.model.wire.messages import NamespaceChanged, encode_message
from shared.runtime.interpreter import settle_collector, share_lock
from sidecar.attest.facts import Attestation, AttestationError
from sidecar.attestor import Attestor
from sidecar.capture.accept_loop import BATCH
from sidecar.native.engine import current_engine
from sidecar.slices import SLICE_S
from sidecar.sockets.address import Endpoint

_TIMEOUT_S: Final = 120.0
_TICK_S: Final = 0.001
_LOOK_PERIOD_S: Final = 0.05
MAX_TURN_S: Final = 0.005
_IDLE_TURN_S: Final = 20e-6
Figures = dict[str, float]


async def watch(work: Awaitable[object]) -> Figures:
    """Return by how much the ticks of a loop were late while this work went on, in milliseconds.

    What the process used of processors in this time is a bound: while it used none, nothing of it held the loop up.
    """
    working = asyncio.ensure_future(work)
    turns = asyncio.create_task(_measure_turns(working))
    late: list[float] = []
    longest_wall = 0.0
    started = time.perf_counter()
    while not working.done():
        due, cpu = time.perf_counter() + _TICK_S, time.process_time()
        await asyncio.sleep(_TICK_S)
        wall, used = time.perf_counter() - due, time.process_time() - cpu
        late.append(min(wall, used) * 1e3)
        longest_wall = max(longest_wall, wall * 1e3)
    kept, own = await working, await turns  # What the work leaves behind isn't freed while ticks count.
    figures = {
        "took_s": round(time.perf_counter() - started, 2),
        "ticks": len(late),
        "p99_ms": round(percentile(late, 0.99), 2),
        "longest_ms": round(max(late), 2),
        "longest_wall_ms": round(longest_wall, 2),
        **own,
    }
    del kept
    return figures


async def _measure_turns(working: asyncio.Future[object]) -> Figures:
    """Return what turns of the loop took of its thread's processor time."""
    longest, turns, above = 0.0, 0, 0
    while not working.done():
        began = time.thread_time()
        await asyncio.sleep(0)
        took = time.thread_time() - began
        if took < _IDLE_TURN_S:  # Else a loop that never rests would take a processor from the work itself.
            began = time.thread_time()
            await asyncio.sleep(_TICK_S)
            took = time.thread_time() - began
        longest, turns, above = max(longest, took), turns + 1, above + (took > MAX_TURN_S)
    return {"longest_own_ms": round(longest * 1e3, 2), "turns": turns, "turns_above_5_ms": above}


def come_first() -> None:
    """Let this thread, and no other, have a processor whenever it wants one, where that is permitted."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))


async def measure_holders(*, held: int, passes: int, directory: Path) -> Figures:
    """Search for the holders of one socket, again and again, beside so many descriptors of its program."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=4096) as listener,
        Processes(directory=directory) as program,
        closing(Attestor()) as attestor,
    ):
        listener.settimeout(_TIMEOUT_S)
        address, port = listener.getsockname()
        arguments = [address, str(port), str(held), "1"]
        program.start("program", [own_python(), "-m", "bench.attested_program", *arguments])
        pool = [listener.accept()[0] for _ in range(held)]
        connection, source = listener.accept()
        attestation = await attestor.attest(source, (address, port))

        async def search() -> None:
            for _ in range(passes):
                await _search(attestor, attestation)

        figures = await watch(search())
        connection.send(b"1")
        for each in (connection, *pool):
            each.close()
    return figures


async def _search(attestor: Attestor, attestation: Attestation) -> None:
    """Search, whether or not it can be completed: that depends on what else the machine starts."""
    try:
        await attestor.check_holders(attestation)
    except AttestationError as error:
        # Or whether other programs of this user have descriptors in flight just now.
        if error.reason not in {Reason.HOLDERS_UNKNOWN, Reason.SOCKET_SHARED}:
            raise


async def measure_hash(*, size: int, directory: Path) -> Figures:
    """Attest a program of so many bytes that was never seen."""
    program = directory / "program"
    shutil.copy(os.path.realpath(sys.executable), program)
    os.truncate(program, program.stat().st_size + size)
    with one_connection(str(program), directory) as (source, place), closing(Attestor()) as attestor:
        return await watch(attestor.attest(source, place))


async def measure_looks(*, processes: int, seconds: float, directory: Path) -> Figures:
    """Attest so many processes at once, then look at all of them as the live checks do."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=4096) as listener,
        Processes(directory=directory) as program,
        closing(Attestor()) as attestor,
    ):
        listener.settimeout(_TIMEOUT_S)
        address, port = listener.getsockname()
        program.start("program", [own_python(), "-m", "bench.holding_program", address, str(port), str(processes)])
        accepted = [listener.accept() for _ in range(processes)]

        found: list[Attestation] = []

        async def carry(source: Endpoint) -> None:
            found.append(await attestor.attest(source, (address, port)))
            await _search(attestor, found[-1])

        async def look() -> None:
            """As connections are accepted: looked at early, for 1 ms in one go, each with a story of its own."""
            carrying: list[asyncio.Task[None]] = []
            turn_ends = time.perf_counter() + SLICE_S
            for number, (_, source) in enumerate(accepted, 1):
                attestor.attest_early(source, (address, port))
                carrying.append(asyncio.create_task(carry(source)))
                if not number % BATCH or time.perf_counter() >= turn_ends:
                    await asyncio.sleep(0)
                    turn_ends = time.perf_counter() + SLICE_S
            until = time.monotonic() + seconds
            carried = asyncio.gather(*carrying)
            while time.monotonic() < until or not carried.done():
                for pause in (0.0, _LOOK_PERIOD_S):
                    if list(attestor.look_again(tuple(found))):
                        raise BenchError("a program has changed")
                    await asyncio.sleep(pause)
            await carried

        figures = await watch(look())
        for number in range(2):
            for connection, _ in accepted if not number else [listener.accept() for _ in range(processes)]:
                connection.send(b"1")
                connection.close()
    return figures


async def measure_policy(*, rules: int) -> Figures:
    """Put a namespace's state in force, as it comes from the CA."""
    state = make_state(rules)
    policies = await install(encode_message(NamespaceChanged(state=state)))
    data = encode_message(NamespaceChanged(state=msgspec.structs.replace(state, version=state.version + 1)))
    del state

    async def replace() -> None:
        for _ in range(2):  # What is in force already is only compared.
            await install(data, policies)
        await asyncio.sleep(_LOOK_PERIOD_S)  # What was replaced is given up.

    return await watch(replace())


async def measure_nothing(*, seconds: float) -> Figures:
    """Rest."""
    return await watch(asyncio.sleep(seconds))


def main(arguments: Sequence[str]) -> int:
    """Measure, print one JSON object a kind of work, return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.stalls")
    parser.add_argument("--works", nargs="+", default=["none", "holders", "hash", "looks", "policy"])
    parser.add_argument("--rounds", type=int, default=3, help="of each (default: 3)")
    options = parser.parse_args(arguments)
    raise_descriptor_limit()
    share_lock()
    current_engine()  # Loads the native one, as a sidecar does before it serves.
    works: dict[str, Callable[[Path], Coroutine[object, object, Figures]]] = {
        "none": lambda _: measure_nothing(seconds=2.0),
        "holders": lambda directory: measure_holders(held=9_900, passes=20, directory=directory),
        "hash": lambda directory: measure_hash(size=1_000_000_000, directory=directory),
        "looks": lambda directory: measure_looks(processes=500, seconds=2.0, directory=directory),
        "policy": lambda _: measure_policy(rules=10_000),
    }
    settle_collector()
    come_first()
    try:
        for name in options.works:
            for _ in range(options.rounds):
                with tempfile.TemporaryDirectory(prefix="touchmark-bench-") as directory:
                    figures = _run(partial(works[name], Path(directory)))
                print(json.dumps({"work": name, **figures}), flush=True)
    except TouchmarkError as error:
        print(f"✗ {error.message}", file=sys.stderr)
        return 1
    return 0


def _run(work: Callable[[], Coroutine[object, object, Figures]]) -> Figures:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
