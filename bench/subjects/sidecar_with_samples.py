"""``python -m sidecar``, whose processor time is divided among its steps. For ``bench.connection_steps`` only.

A timer of the process's processor time interrupts the event loop, and what the loop's thread has used since the last
time is given to the step that it is in: the innermost function that ``STEPS`` names. It begins to count at SIGUSR1. At
SIGUSR2 it writes its seconds by step beside its configuration, as ``NAME.samples``. What the loop itself does, in C, is
counted where Python code goes on next: what dispatches events has too much of it.
"""

from __future__ import annotations

import signal
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final

import msgspec

import sidecar.runtime.prepare
from sidecar.__main__ import main
from sidecar.parts import Limits

PERIOD_S: Final = 0.002
THREADS: Final = "threads: searches for holders, handshakes"
REST: Final = "the rest: the loop, tasks, connections to the CA"
# Step by module and, where it is written, function; the module alone means all others in it.
STEPS: Final[Mapping[str, str]] = {
    "sidecar.capture.accept_loop": "accept",
    "sidecar.capture.capturing": "accept",
    "sidecar.capture.claims": "accept",
    "sidecar.rooms": "accept",
    "sidecar.attestor": "attest: which socket, who holds it, what it runs",
    "sidecar.listener": "attest: which socket, who holds it, what it runs",
    "sidecar.attest": "attest: which socket, who holds it, what it runs",
    "sidecar.proving": "attest: which socket, who holds it, what it runs",
    "sidecar.code_check": "attest: which socket, who holds it, what it runs",
    "sidecar.loaded": "attest: which socket, who holds it, what it runs",
    "sidecar.runtime.live_checks": "looks at live connections",
    "sidecar.attest.holding": "looks at live connections",
    "sidecar.attest.program_look": "looks at live connections",
    "sidecar.outbound": "the story's own lines",
    "sidecar.inbound": "the story's own lines",
    "sidecar.steps": "the story's own lines",
    "sidecar.routing": "identify, decide",
    "sidecar.mesh": "identify, decide",
    "sidecar.connection": "identify, decide",
    "sidecar.credential": "identify, decide",
    "shared.model.policy": "identify, decide",
    "sidecar.sockets.dial": "dial",
    "sidecar.sockets.liveness": "dial",
    "sidecar.tls.client_hello": "handshake, in the loop",
    "sidecar.tls.handshake": "handshake, in the loop",
    "sidecar.tls.handshake_gate": "handshake, in the loop",
    "sidecar.tls.handshake_workers": "handshake, in the loop",
    "sidecar.tls.resumption": "handshake, in the loop",
    "sidecar.tls.presented": "handshake, in the loop",
    "sidecar.tls.contexts": "handshake, in the loop",
    "sidecar.tunnel.handshake": "handshake, in the loop",
    "sidecar.tunnel.connector": "pool: take, give back",
    "sidecar.tunnel.pool": "pool: take, give back",
    "sidecar.tunnel": "frames and turns",
    "sidecar.tls.records": "read and write TLS records",
    "sidecar.tunnel.native_tunnel:NativeTunnel._on_readable": "read and write TLS records",
    "sidecar.pump": "pump: both directions, ends",
    "sidecar.sockets.ending": "pump: both directions, ends",
    "sidecar.sockets.polling": "events: epoll, dispatch",
    "sidecar.connection.describe": "record",
    "sidecar.connection.drafts": "record",
    "sidecar.connection.recording": "record",
    "shared.runtime.sinks": "record",
    "sidecar.connection.connection:Connection.__exit__": "close",
}


class Sampler:
    """Processor seconds by step, of the thread that makes this and, in ``THREADS``, of all others."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._thread_s = self._process_s = 0.0

    def begin(self) -> None:
        """Count from now on, each ``PERIOD_S`` of the process's processor time."""
        self._seconds.clear()
        self._thread_s, self._process_s = time.thread_time(), time.process_time()
        signal.signal(signal.SIGPROF, lambda _, frame: self.take(frame))
        signal.setitimer(signal.ITIMER_PROF, PERIOD_S, PERIOD_S)

    def take(self, frame: FrameType | None) -> None:
        """Give what was used since the last time to the step that the thread is in."""
        thread_s, process_s = time.thread_time(), time.process_time()
        used = thread_s - self._thread_s
        self._seconds[find_step(frame)] += used
        self._seconds[THREADS] += max(0.0, process_s - self._process_s - used)
        self._thread_s, self._process_s = thread_s, process_s

    def end(self) -> dict[str, float]:
        """Count no more; return the seconds by step."""
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        return dict(self._seconds)


def find_step(frame: FrameType | None) -> str:
    """Return the step of the innermost frame that belongs to one."""
    while frame is not None:
        module: str = frame.f_globals.get("__name__", "")
        if module.startswith(("sidecar.", "shared.")):
            name = f"{module}:{frame.f_code.co_qualname}"
            while name:
                if (step := STEPS.get(name)) is not None:
                    return step
                name = name.rpartition(":")[0] or name.rpartition(".")[0]
        frame = frame.f_back
    return REST


def read_samples(path: Path) -> dict[str, float]:
    """Read what a sidecar has written."""
    return msgspec.json.decode(path.read_bytes(), type=dict[str, float])


if __name__ == "__main__":
    sampler = Sampler()
    written = Path(sys.argv[sys.argv.index("--config") + 1]).with_suffix(".samples")

    def write() -> None:
        part = written.with_suffix(".part")
        part.write_bytes(msgspec.json.encode(sampler.end()))
        part.rename(written)

    signal.signal(signal.SIGUSR1, lambda *_: sampler.begin())
    signal.signal(signal.SIGUSR2, lambda *_: write())
    if has_no_reuse := "--no-reuse" in sys.argv:  # As in ``sidecar_without_reuse.py``.
        vars(sidecar.runtime.prepare)["Limits"] = partial(Limits, tunnel_age_s=0.0)
    raise SystemExit(main(sys.argv[1 + has_no_reuse :]))
