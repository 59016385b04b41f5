"""What a sidecar gains by more than one thread for established connections: ``python -m bench.workers``.

One end of several tunnels runs in this process: it reads what the applications send, encrypts it and sends it on. All
else costs little: the applications send pages that the kernel has already, and the tunnels' other ends, once they have
shaken hands, are sockets whose bytes the kernel throws away. Numbers of threads take turns, and each round's ratios are
of runs beside one another. Seconds depend on what else the machine does: for how long each thread computed, and waited
for a core while it could have (the kernel's ``schedstat``), says what a quiet machine would give. Does I/O.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.model.policy.decision import Ending
from shared.runtime.interpreter import quicken_enumerations
from sidecar.native.engine import Wanted, choose, choose_workers
from sidecar.tunnel import native_tunnel
from sidecar.tunnel.native_tunnel import NativeTunnel
from tests.sidecar.little_ca import until
from tests.sidecar.pump.test_tunnel_pump import Turn, opened_turn

_MIB: Final = 1024 * 1024
_SECOND_NS: Final = 1_000_000_000
_TIMEOUT_S: Final = 600
_OTHERS: Final = """
import os, socket, sys, threading
kind, count, page = sys.argv[1], int(sys.argv[2]), 1 << 20
streams = [socket.socket(fileno=int(each)) for each in sys.argv[3:]]
memory = os.memfd_create("zeros")
os.truncate(memory, page)
def send(stream):
    left = count
    while left:
        left -= os.sendfile(stream.fileno(), memory, 0, min(left, page))
def take(stream):
    room = bytearray(page)
    while stream.recv_into(room, page, socket.MSG_TRUNC):
        pass
print("ready", flush=True)
sys.stdin.readline()
for each in streams:
    each.setblocking(True) if kind == "send" else each.settimeout(600)
    threading.Thread(target=send if kind == "send" else take, args=[each], daemon=kind == "take").start()
sys.stdin.read()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one run took.

    Attributes:
        seconds: from the first byte to the last.
        cpu_s: processor time of this process, kernel included.
        loop_s: of its event loop's thread alone.
        busiest_s: of the other thread that computed for longest.
        wanted: the share of the seconds in which that one computed, or waited for a core.
    """

    seconds: float
    cpu_s: float
    loop_s: float
    busiest_s: float
    wanted: float


def _read_threads() -> dict[str, tuple[float, float]]:
    """Return for how many seconds each thread of this process has computed, and has waited for a core."""
    read = {}
    for each in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # An earlier run's thread ends meanwhile.
            computed, waited, _ = (each / "schedstat").read_text(encoding="ascii").split()
            read[each.name] = int(computed) / _SECOND_NS, int(waited) / _SECOND_NS
    return read


async def _open(streams: int, stack: AsyncExitStack) -> list[Turn]:
    """Open turns, whose responders read no more, and which this process's loop has at first."""
    loop, turns = asyncio.get_running_loop(), []
    for _ in range(streams):
        turn = await stack.enter_async_context(opened_turn(b"first"))
        assert await loop.sock_recv(turn.server, 100) == b"first"
        turn.server.send(b"second")
        assert await loop.sock_recv(turn.app, 100) == b"second"
        for end in (turn.far, turn.near):
            assert isinstance(end, NativeTunnel)
            end.take_back()
        turn.far.pause()
        turns.append(turn)
    return turns


def _start(kind: str, count: int, fds: Sequence[int]) -> subprocess.Popen[bytes]:
    """Start a process that does nothing before a line comes to its standard input, and ends with that."""
    command = [sys.executable, "-c", _OTHERS, kind, str(count), *map(str, fds)]
    process = subprocess.Popen(command, pass_fds=fds, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def _let(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")


async def _run(streams: int, mib: int) -> Run:
    """Carry so much through each stream."""
    async with AsyncExitStack() as stack:
        turns = await _open(streams, stack)
        counts = [turn.initiator.sent + mib * _MIB for turn in turns]
        sink = await asyncio.to_thread(_start, "take", 0, [turn.far.connection.fileno() for turn in turns])
        source = await asyncio.to_thread(_start, "send", mib * _MIB, [turn.app.fileno() for turn in turns])
        before, started, cpu, loop_cpu = _read_threads(), time.monotonic(), time.process_time(), time.thread_time()
        _let(sink)
        _let(source)
        await asyncio.to_thread(source.communicate, timeout=_TIMEOUT_S)
        await until(lambda: all(turn.initiator.sent >= count for turn, count in zip(turns, counts, strict=True)))
        seconds, cpu_s, loop_s = time.monotonic() - started, time.process_time() - cpu, time.thread_time() - loop_cpu
        used = {
            name: [after - earlier for after, earlier in zip(each, before.get(name, (0.0, 0.0)), strict=True)]
            for name, each in _read_threads().items()
        }
        used.pop(str(threading.get_native_id()), None)
        computed, waited = max(used.values(), default=(0.0, 0.0))
        await asyncio.to_thread(sink.communicate, timeout=_TIMEOUT_S)
        assert source.returncode == sink.returncode == 0
        for turn in turns:
            turn.initiator.abort(Ending.SHUTDOWN)
        return Run(
            seconds=seconds,
            cpu_s=cpu_s,
            loop_s=loop_s,
            busiest_s=computed,
            wanted=(computed + waited) / seconds,
        )


def main(arguments: Sequence[str]) -> int:
    """Print each number's medians, and the median and range of the rounds' ratios to one thread."""
    parser = argparse.ArgumentParser(prog="python -m bench.workers", description=__doc__.partition(":")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--mib", type=int, default=256, help="MiB of each stream")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args(arguments)
    quicken_enumerations()  # As a sidecar does.
    choose(Wanted.NATIVE)
    runs: dict[int, list[Run]] = {threads: [] for threads in options.threads}
    before, calls = choose_workers(1), native_tunnel.STEADY_CALLS
    vars(native_tunnel)["STEADY_CALLS"] = 1
    try:
        for number in range(options.rounds):
            turn = number % len(options.threads)
            for threads in [*options.threads[turn:], *options.threads[:turn]]:
                choose_workers(threads)
                runs[threads].append(asyncio.run(_run(options.streams, options.mib)))
    finally:
        choose_workers(before)
        vars(native_tunnel)["STEADY_CALLS"] = calls
    _show(runs, options.streams * options.mib)
    return 0


def _show(runs: dict[int, list[Run]], mib: int) -> None:
    for threads, each in runs.items():
        rates = [mib / run.seconds for run in each]
        print(
            f"workers {threads}: {statistics.median(rates):.0f} MiB/s, most {max(rates):.0f};"
            f" {statistics.median(run.cpu_s for run in each) / mib * 1e6:.0f} us CPU/MiB,"
            f" {statistics.median(run.busiest_s for run in each) / mib * 1e6:.0f} of the busiest thread,"
            f" which had work for {statistics.median(run.wanted for run in each):.0%} of the time,"
            f" {statistics.median(run.loop_s for run in each) / mib * 1e6:.0f} of the event loop"
        )
    first, *others = runs
    for threads in others:
        pairs = list(zip(runs[first], runs[threads], strict=True))
        timed = [pair for pair in pairs if pair[1].busiest_s > 0]  # All, where the kernel keeps `schedstat`.
        for what, ratios in (
            ("rate", [one.seconds / more.seconds for one, more in pairs]),
            ("MiB for each second of the busiest thread", [one.busiest_s / more.busiest_s for one, more in timed]),
            ("CPU a MiB", [more.cpu_s / one.cpu_s for one, more in pairs]),
        ):
            if not ratios:
                continue
            told = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"{threads} workers / {first}, {what}: {told}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
