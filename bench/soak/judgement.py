"""What a soak must have shown: failures explained by what was done at that moment, nothing lost, memory flat. Pure.

Belongs here: the rules. Doesn't: the run itself. A failure is explained only by a window in which something was broken
on purpose that breaks just this kind of connection; everything else fails the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

# Failures to dial are remembered for 5 s; a restarted sidecar takes its time to join, and records end later.
AFTER_PEER_S: Final = 8.0
AFTER_POLICY_S: Final = 3.0
_BEFORE_S: Final = 0.5
MAX_MEMORY_GROWTH: Final = 1.10
MAX_MEMORY_GROWTH_BYTES: Final = 8 * 1024 * 1024
MAX_DESCRIPTOR_GROWTH: Final = 8
# A sidecar keeps descriptors of ended processes in bounded caches, which short programs fill: five for each of 256
# (`sidecar/attestor.py`), two for each of 512 (`sidecar/loaded/looks.py`) and of those that a pass has cleared in ten
# seconds, at most 1,024 (`sidecar/attest/holding/clearance.py`). Growth below that is no leak.
KEPT_DESCRIPTORS: Final = 5 * 256 + 2 * 512 + 2 * 1024 + 64
# A run shorter than this is over before caches and allocator are warm: only the bounds hold then.
WARM_S: Final = 120.0
MAX_MEMORY_BYTES: Final = 192 * 1024 * 1024
FAULTS: Final = frozenset({"task_failed", "loop_hung", "not_joined_again", "certificate_expired", "output_failed"})
FAULT_REASONS: Final = frozenset({"internal_error", "protocol_error", "record_limit"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A time in which something is broken on purpose.

    Attributes:
        what: for the report.
        began, ended: seconds since the epoch; ``ended`` when it was whole again.
        kinds: of connections that may fail at that time; empty: every kind.
        after_s: how long its effects last.
    """

    what: str
    began: float
    ended: float
    kinds: frozenset[str] = frozenset()
    after_s: float

    def explains(self, failure: Failure) -> bool:
        """Return whether a failure may come of this."""
        if self.kinds and failure.kind not in self.kinds:
            return False
        return failure.began <= self.ended + self.after_s and failure.ended >= self.began - _BEFORE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One attempt of a client that failed."""

    side: str
    kind: str
    began: float
    ended: float
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One look at the sidecar that lives through the whole run.

    Attributes:
        descriptors: without those of idle tunnels, of peers' tunnels and of live connections.
    """

    at: float
    memory_bytes: int
    descriptors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What the sidecar that lives through the whole run says at its end.

    Attributes:
        connected: connections that its clients had; and ``unknown`` more, or fewer than that.
        recorded: connections that its log has.
        lost: records that it counted as lost, anywhere.
        events: counts by name.
        reasons: counts of records by reason.
        details: of those whose reason is a fault, at the other sidecar too.
    """

    connected: int
    unknown: int
    recorded: int
    lost: int
    events: dict[str, int]
    reasons: dict[str, int]
    details: dict[str, int] = field(default_factory=dict)


def find_unexplained(failures: Iterable[Failure], windows: Sequence[Window]) -> list[Failure]:
    """Return the failures that no window explains."""
    return [failure for failure in failures if not any(window.explains(failure) for window in windows)]


def find_faults(kept: Kept, unexplained: Sequence[Failure], samples: Sequence[Sample]) -> list[str]:
    """Return what is wrong with a run, as sentences; none: it holds."""
    faults = [f"unexplained: {each.side} {each.kind} {each.error}" for each in unexplained[:20]]
    if len(unexplained) > 20:
        faults.append(f"and {len(unexplained) - 20} more unexplained failures")
    if kept.lost:
        faults.append(f"{kept.lost} records were lost")
    if not kept.connected <= kept.recorded <= kept.connected + kept.unknown:
        faults.append(f"{kept.connected} connections, and {kept.recorded} records of them")
    faults += [f"event {name}: {count}" for name, count in kept.events.items() if name in FAULTS]
    faults += [f"reason {name}: {count}" for name, count in kept.reasons.items() if name in FAULT_REASONS]
    faults += [f"{count} of {text}" for text, count in kept.details.items()]
    return faults + _find_growth(samples)


def _find_growth(samples: Sequence[Sample]) -> list[str]:
    """Compare the second quarter of the run, when all is warm, with the last one; a short run with bounds alone."""
    quarter = len(samples) // 4
    if quarter < 2:
        return ["too few samples of memory and descriptors"]
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    faults = []
    before, after = (min(each.memory_bytes for each in part) for part in (early, late))
    is_warm = samples[-1].at - samples[0].at >= WARM_S
    has_grown = after > before * MAX_MEMORY_GROWTH and after - before > MAX_MEMORY_GROWTH_BYTES
    if (is_warm and has_grown) or after > MAX_MEMORY_BYTES:
        faults.append(f"memory grew from {before >> 20} to {after >> 20} MiB")
    before, after = (min(each.descriptors for each in part) for part in (early, late))
    if after > max(before, KEPT_DESCRIPTORS) + MAX_DESCRIPTOR_GROWTH:
        faults.append(f"descriptors grew from {before} to {after}")
    return faults


def read_failures(side: str, lines: Iterable[dict[str, Any]]) -> list[Failure]:
    """Read what a side's clients wrote."""
    return [
        Failure(side=side, kind=line["kind"], began=line["began"], ended=line["ended"], error=line["error"])
        for line in lines
        if "sums" not in line
    ]
