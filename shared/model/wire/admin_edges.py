"""The admin API's answers about edges, coverage and readiness; ``admin.py`` has the others, and re-exports these. Pure.

An edge is what equal connections have in common. Both ends' sidecars report each connection; the source's count holds,
the destination's where no source reports. Hours are UTC.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from shared.model.adoption.fixes import Fix
from shared.model.policy.decision import Answer, Transport
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, Mode, WorkloadMode

MAX_EDGES_LISTED: Final = 5_000
DEFAULT_EDGES_LISTED: Final = 1_000
NAMELESS: Final = "several addresses"  # An end that has no name, and no one address.


# ``gc=False``: thousands are made at once, and none can be part of a circle that the garbage collector would look for.
class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    pass


class EdgeEnd(_Answer, frozen=True, gc=False):
    """Who is at one end.

    Attributes:
        workload: proven by a certificate, or by the reporting sidecar's own.
        listed: what the directory lists at the address; evidence.
        identity: a foreign SPIFFE ID.
        address: of an end that has no name, a host; empty with no name at all: several that weren't told apart.
        program: ``sha256:…``; empty when there is none.
        path: of the program, in its own words; only where this end's sidecar reports.
        pods: instances that reported lately.
    """

    workload: str = ""
    listed: str = ""
    identity: str = ""
    address: str = ""
    program: str = ""
    path: str = ""
    pods: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The best name that there is."""
        return self.workload or self.identity or self.listed or self.address or NAMELESS


class EdgeOutcome(_Answer, frozen=True, gc=False):
    """What one side's sidecar decided of some of an edge's connections.

    Attributes:
        side: ``egress``: the source's sidecar, ``ingress``: the destination's.
        service: ``namespace/name:port`` that was dialled; only the source's side knows.
        why_source, why_destination: why an end has no program.
        detail: of the newest record, for people.
    """

    side: Direction
    answer: Answer
    would_deny: bool
    reason: Reason
    rule: str
    mode: Mode
    transport: Transport
    service: str
    connections: int
    first: float
    last: float
    why_source: str = ""
    why_destination: str = ""
    detail: str = ""

    @property
    def verdict(self) -> str:
        """``deny``, ``would deny`` or ``allow``."""
        return "deny" if self.answer is Answer.DENY else "would deny" if self.would_deny else "allow"


class EdgeView(_Answer, frozen=True, gc=False):
    """Who talked to whom.

    Attributes:
        connections: each counted once, in the hour in which it began.
        bytes_sent: from source to destination, of connections that ended; ``bytes_received``: back.
        reported_by: the sides that reported; one alone: the other end isn't in the mesh, or not seen.
        is_counted: false: these connections are in the counts of other edges already, which know less of the
            destination.
        is_lossy: one of the reporting workloads lost records in the window: counts are lower bounds.
    """

    source: EdgeEnd
    destination: EdgeEnd
    port: int
    connections: int
    bytes_sent: int
    bytes_received: int
    first: float
    last: float
    reported_by: tuple[Direction, ...]
    outcomes: tuple[EdgeOutcome, ...]
    is_counted: bool = True
    is_lossy: bool = False


class EdgeList(_Answer, frozen=True):
    """A namespace's edges in a window of whole hours, by names.

    Attributes:
        total: how many match; ``edges`` is a page of them.
        is_truncated: the namespace has more than are ever looked at; those seen last were.
    """

    namespace: str
    edges: tuple[EdgeView, ...]
    since: float
    until: float
    total: int
    is_truncated: bool = False


class WorkloadCoverage(_Answer, frozen=True):
    """How much of a workload was observed in the window.

    Attributes:
        pods: sidecars that reported or have a stream.
        from_start: how many of them reported since they started; what came before is unknown of the others.
        silent: how many have a stream and reported nothing.
        restarts: starts beyond the first of each.
        records, lost: connections' records that arrived, and that were lost or had no room.
        lossy_hours: hours in which records may have been lost.
        hours_seen: hours of the window in which anything was reported.
        hours_of_day: 0 to 23; ``weekdays``: 0 is Monday.
        newest: when it last reported, seconds since the epoch; 0: never.
        gaps: what isn't known, in words; empty: nothing that is looked at here is missing.
    """

    workload: str
    pods: int
    from_start: int
    silent: int
    restarts: int
    records: int
    lost: int
    lossy_hours: int
    hours_seen: int
    hours_of_day: tuple[int, ...]
    weekdays: tuple[int, ...]
    newest: float
    gaps: tuple[str, ...] = ()


class CoverageList(_Answer, frozen=True):
    """By workload; ``since`` is the window's beginning.

    Attributes:
        gaps: what can't have been seen, of workloads that may not be here: CronJobs that didn't start. The CA doesn't
            know of them; commands in a cluster add them.
    """

    namespace: str
    since: float
    workloads: tuple[WorkloadCoverage, ...]
    is_truncated: bool = False
    gaps: tuple[str, ...] = ()


class TimelineHour(_Answer, frozen=True, gc=False):
    """What a namespace's own sidecars decided in one hour.

    Attributes:
        start: of the hour, seconds since the epoch.
        sidecars: how many reported; ``lost``: records that they lost: counts are lower bounds where there are any.
        allowed, would_deny, denied: connections by verdict, each in the hour in which it began. One between two of
            the namespace's workloads counts at each.
    """

    start: float
    sidecars: int
    lost: int
    allowed: int = 0
    would_deny: int = 0
    denied: int = 0


class Timeline(_Answer, frozen=True):
    """The hours in which one of the namespace's sidecars reported, oldest first: the newest 744 at most."""

    namespace: str
    hours: tuple[TimelineHour, ...] = ()


class Cause(_Answer, frozen=True):
    """Connections that were refused or would be, of one cause; each connection counts once.

    Attributes:
        fix: what lets them pass; None from a CA of 0.1.
        is_next: another refusal, of a program that isn't approved, comes first today.
        path: of the reporter's own program; ``detail``: what its record says; both of the newest.
        service: ``namespace/name:port`` that was dialled, where it is known.
        source_address, destination_address: with ports, of the newest.
        sidecars: some of the instances that reported it.
        side: who reported the newest: ``egress`` is the source's sidecar; empty from a CA of 0.1.
    """

    reason: Reason
    source_workload: str
    destination_workload: str
    source_program: str
    destination_program: str
    port: int
    connections: int
    last_seen: float
    first_seen: float = 0.0
    fix: Fix | None = None
    is_next: bool = False
    path: str = ""
    detail: str = ""
    service: str = ""
    source_address: str = ""
    destination_address: str = ""
    sidecars: tuple[str, ...] = ()
    side: str = ""


class ReadinessVerdict(StrEnum):
    """What is said of a namespace."""

    READY = "ready"
    BLOCKED = "blocked"
    UNKNOWN = "unknown"


class Readiness(_Answer, frozen=True):
    """Is ``explicit`` safe for this namespace? What the current rules would refuse of what was seen since then.

    Attributes:
        causes: grouped, most frequent first.
        settled: connections that were marked or refused when they were seen and would be allowed now.
        is_truncated: there were too many records to look at all; a shorter ``since_s`` answers in full.
        sidecars_reported: live sidecars of the namespace that sent at least one decision since then, or whose stream is
            open (a sidecar without connections has nothing to report).
        sidecars_total: live sidecars of the namespace.
        silent: instances of those that didn't report.
        is_safe: no cause, nothing left out, and every live sidecar reported.
        verdict: ``is_safe`` with coverage: ``unknown`` where nothing stands against explicit mode, but too little was
            seen to say so; ``unknowns`` says what is missing. None from a CA of 0.1.
        failures: connections that failed for reasons that no mode changes; nothing that stands against explicit mode.
        coverage: by workload, as `/coverage` answers it.
        workload: the one that was asked about; empty: the whole namespace.
        refused: connections of programs that somebody has refused: explicit mode would refuse them, as intended.
        workload_modes: workloads with a mode of their own. Asked about the whole namespace, the answer is about the
            others: a switch of the namespace's mode doesn't change these.
    """

    namespace: str
    mode: Mode
    version: int
    since: float
    causes: tuple[Cause, ...]
    settled: int
    is_truncated: bool
    sidecars_reported: int
    sidecars_total: int
    silent: tuple[str, ...]
    is_safe: bool
    verdict: ReadinessVerdict | None = None
    unknowns: tuple[str, ...] = ()
    failures: tuple[Cause, ...] = ()
    coverage: tuple[WorkloadCoverage, ...] = ()
    workload: str = ""
    refused: tuple[Cause, ...] = ()
    workload_modes: tuple[WorkloadMode, ...] = ()
