"""``python -m sidecar``, which notes when each step of its stories begins and ends. For ``bench.first_moment`` only.

The steps are functions of the product, called by the code that users run; two readings of clocks are added around each.
A tunnel of any age is too old to be used again, so that each burst makes its own. When the sidecar ends, what was noted
is written beside its configuration, as ``NAME.moments``: one JSON array a line, the fields of ``Moment``.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

import sidecar.inbound
import sidecar.outbound
import sidecar.runtime.prepare
import sidecar.tls.handshake
import sidecar.tunnel.connector
from sidecar.__main__ import main
from sidecar.attest.holding.owner import OwnerSearch
from sidecar.attest.measure import Measuring
from sidecar.parts import Limits

# Where the stories look their steps up, which are coroutines.
STEPS: Final[Mapping[Any, tuple[str, ...]]] = {
    sidecar.outbound: ("carry_outbound", "attest", "await_clearance", "choose_credential", "connect"),
    Measuring: ("measure", "measure_sighting"),
    OwnerSearch: ("find",),
    sidecar.tunnel.connector: ("dial", "establish_tunnel"),
    sidecar.inbound: (
        "terminate", "peek_client_hello", "wait_for_handshake", "attest_listener", "establish_tunnel",
        "dial_application", "see_accepted",
    ),
}  # fmt: skip
QUEUED: Final = "handshake step: queued"
COMPUTED: Final = "handshake step: computed"


class Moment(msgspec.Struct, frozen=True, array_like=True):
    """One step, taken once.

    Attributes:
        began, ended: in seconds, of the clock that all processes share (``CLOCK_MONOTONIC``).
        cpu_began, cpu_ended: processor time of the thread that took it: the loop's, except where a step is computed.
    """

    step: str
    began: float
    ended: float
    cpu_began: float
    cpu_ended: float


def note_steps(moments: list[Moment]) -> None:
    """Have each step noted from now on."""
    for owner, names in STEPS.items():
        for name in names:
            setattr(owner, name, _note(f"{owner.__name__.rpartition('.')[2]}.{name}", getattr(owner, name), moments))
    compute = vars(sidecar.tls.handshake)["compute"]

    async def compute_noted(loop: Any, role: Any, work: Callable[[], Any], **keywords: Any) -> Any:
        queued, cpu = time.monotonic(), time.thread_time()

        def work_noted() -> Any:
            began, cpu_began = time.monotonic(), time.thread_time()
            moments.append(Moment(QUEUED, queued, began, cpu, cpu))
            try:
                return work()
            finally:
                moments.append(Moment(COMPUTED, began, time.monotonic(), cpu_began, time.thread_time()))

        return await compute(loop, role, work_noted, **keywords)

    vars(sidecar.tls.handshake)["compute"] = compute_noted


def _note(step: str, take: Callable[..., Any], moments: list[Moment]) -> Callable[..., Any]:
    @functools.wraps(take)
    async def noted(*arguments: Any, **keywords: Any) -> Any:
        began, cpu = time.monotonic(), time.thread_time()
        try:
            return await take(*arguments, **keywords)
        finally:
            moments.append(Moment(step, began, time.monotonic(), cpu, time.thread_time()))

    return noted


def write_moments(moments: list[Moment], path: Path) -> None:
    """Write what was noted."""
    path.write_bytes(b"".join(msgspec.json.encode(each) + b"\n" for each in moments))


def read_moments(path: Path) -> list[Moment]:
    """Read what a sidecar has noted."""
    return [msgspec.json.decode(line, type=Moment) for line in path.read_bytes().splitlines()]


if __name__ == "__main__":
    noted: list[Moment] = []
    note_steps(noted)
    vars(sidecar.runtime.prepare)["Limits"] = partial(Limits, tunnel_age_s=0.0)
    try:
        status = main(sys.argv[1:])
    finally:
        write_moments(noted, Path(sys.argv[sys.argv.index("--config") + 1]).with_suffix(".moments"))
    raise SystemExit(status)
