"""What a tunnel's pair of pumps costs in Python, with the compiled loop called from it, and with its thread.

Both ends run in this process's event loop, the applications in another process: what is counted is this process, kernel
included, so that other load on the machine changes the figures less than a comparison by rates. The three take turns,
and each round's ratios are of runs beside one another: ``python -m bench.engines``. Does I/O.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from enum import Enum
from typing import Final

from shared.model.policy.decision import Ending
from shared.runtime.interpreter import quicken_enumerations
from sidecar.native.engine import Wanted, choose
from sidecar.tunnel import native_tunnel
from tests.sidecar.pump.test_tunnel_pump import opened_turn

_MIB: Final = 1024 * 1024
_NEVER: Final = 1 << 60  # Calls of the loop before a turn is lent.


class Way(Enum):
    """What moves bytes."""

    PYTHON = "python"
    LOOP = "loop"
    THREAD = "thread"

    def choose(self) -> None:
        """Have new connections moved this way."""
        choose(Wanted.PYTHON if self is Way.PYTHON else Wanted.NATIVE)
        vars(native_tunnel)["STEADY_CALLS"] = _STEADY_CALLS if self is Way.THREAD else _NEVER


_STEADY_CALLS: Final = native_tunnel.STEADY_CALLS
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
    """Carry it through one tunnel; return this process's CPU seconds, and seconds."""
    async with opened_turn(b"first") as turn:
        assert await asyncio.get_running_loop().sock_recv(turn.server, 100) == b"first"
        turn.server.send(b"second")
        assert await asyncio.get_running_loop().sock_recv(turn.app, 100) == b"second"
        fds = turn.app.fileno(), turn.server.fileno()
        command = [sys.executable, "-c", _APPLICATIONS, kind, str(count), *map(str, fds)]
        process = await asyncio.to_thread(subprocess.Popen, command, pass_fds=fds)
        started, cpu = time.monotonic(), time.process_time()
        returned = await asyncio.to_thread(process.wait)
        used, took = time.process_time() - cpu, time.monotonic() - started
        assert returned == 0
        turn.initiator.abort(Ending.SHUTDOWN)
        return used, took


def main(arguments: Sequence[str]) -> int:
    """Print each way's median and least, and the median and range of the rounds' ratios."""
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
        cpu: dict[Way, list[float]] = {way: [] for way in Way}
        for number in range(options.rounds):
            for way in [*Way][number % 3 :] + [*Way][: number % 3]:
                way.choose()
                used, _ = asyncio.run(_run(kind, count))
                cpu[way].append(used / units * 1e6)
        for way, values in cpu.items():
            print(f"{kind:9} {way.value:7} {statistics.median(values):8.1f} us CPU/{unit}, least {min(values):.1f}")
        for way, other in ((Way.LOOP, Way.PYTHON), (Way.THREAD, Way.LOOP)):
            ratios = [one / two for one, two in zip(cpu[way], cpu[other], strict=True)]
            told = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"{kind:9} {way.value} / {other.value}: {told}")
    vars(native_tunnel)["STEADY_CALLS"] = _STEADY_CALLS
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
