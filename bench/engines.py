"""What a tunnel's pair of pumps costs with each engine: ``python -m bench.engines``. Does I/O.

Both ends run in this process's event loop, the applications in another process: what is counted is the loop's thread,
kernel included, so that other load on the machine changes the figures less than a comparison by rates. The engines take
turns, and each round's ratio is of two runs beside one another.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Final

from shared.model.policy.decision import Ending
from shared.runtime.interpreter import quicken_enumerations
from sidecar.native.engine import Wanted, choose
from tests.sidecar.pump.test_tunnel_pump import opened_turn

_MIB: Final = 1024 * 1024
_APPLICATIONS: Final = """
import socket, sys, threading
kind, count = sys.argv[1], int(sys.argv[2])
client, server = (socket.socket(fileno=int(each)) for each in sys.argv[3:5])
for each in (client, server):
    each.setblocking(True)
def serve():
    if kind == "bulk":
        left, room = count, bytearray(1 << 20)
        while left:
            left -= server.recv_into(room)
        server.send(b"!")
    else:
        for _ in range(count):
            server.recv(1000)
            server.send(bytes(300))
threading.Thread(target=serve).start()
if kind == "bulk":
    data = bytes(1 << 20)
    for _ in range(count >> 20):
        client.sendall(data)
    client.recv(1)
else:
    for _ in range(count):
        client.send(bytes(100))
        left = 300
        while left:
            left -= len(client.recv(1000))
"""


async def _run(kind: str, count: int) -> tuple[float, float]:
    """Carry it through one tunnel; return the loop's CPU seconds, and seconds."""
    async with opened_turn(b"first") as turn:
        assert await asyncio.get_running_loop().sock_recv(turn.server, 100) == b"first"
        turn.server.send(b"second")
        assert await asyncio.get_running_loop().sock_recv(turn.app, 100) == b"second"
        fds = turn.app.fileno(), turn.server.fileno()
        command = [sys.executable, "-c", _APPLICATIONS, kind, str(count), *map(str, fds)]
        process = await asyncio.to_thread(subprocess.Popen, command, pass_fds=fds)
        started, cpu = time.monotonic(), time.thread_time()
        returned = await asyncio.to_thread(process.wait)
        used, took = time.thread_time() - cpu, time.monotonic() - started
        assert returned == 0
        turn.initiator.abort(Ending.SHUTDOWN)
        return used, took


def main(arguments: Sequence[str]) -> int:
    """Print both engines' medians, and the median and range of the rounds' ratios."""
    parser = argparse.ArgumentParser(prog="python -m bench.engines", description=__doc__.partition(":")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--mib", type=int, default=256, help="MiB of each bulk run")
    parser.add_argument("--requests", type=int, default=10_000, help="of each run of requests, one after the other")
    options = parser.parse_args(arguments)
    quicken_enumerations()  # As a sidecar does.
    works = {
        "bulk": (options.mib * _MIB, options.mib, "MiB"),
        "requests": (options.requests, options.requests, "request"),
    }
    for kind, (count, units, unit) in works.items():
        cpu: dict[Wanted, list[float]] = {Wanted.NATIVE: [], Wanted.PYTHON: []}
        for number in range(options.rounds):
            for engine in sorted(cpu, key=lambda each: each.value, reverse=number % 2 == 1):
                choose(engine)
                used, _ = asyncio.run(_run(kind, count))
                cpu[engine].append(used / units * 1e6)
        ratios = [native / python for native, python in zip(cpu[Wanted.NATIVE], cpu[Wanted.PYTHON], strict=True)]
        for engine, values in cpu.items():
            print(f"{kind:9} {engine.value:7} {statistics.median(values):8.1f} us CPU/{unit}")
        print(f"{kind:9} native / python: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
