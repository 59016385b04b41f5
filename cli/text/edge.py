"""Edges and coverage as people read them: table rows, verdicts, the names of ends. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Final

from cli.text.duration import format_duration, format_time
from cli.text.output import shorten
from shared.model.policy.rules import Direction
from shared.model.wire.admin_edges import EdgeEnd, EdgeOutcome, EdgeView, TimelineHour, WorkloadCoverage

COLUMNS: Final = (
    "SOURCE", "PROGRAM", "DESTINATION", "PROGRAM", "SERVICE", "PORT", "TRANSPORT", "VERDICT", "REASON", "RULE", "SIDE",
    "CONNECTIONS", "LAST SEEN",
)  # fmt: skip
COVERAGE_COLUMNS: Final = (
    "WORKLOAD", "PODS", "FROM START", "SILENT", "RESTARTS", "RECORDS", "LOST", "HOURS SEEN", "NEWEST",
)  # fmt: skip
TIMELINE_COLUMNS: Final = ("HOUR", "ALLOWED", "WOULD DENY", "DENIED", "SIDECARS", "LOST")
_SIDES: Final[dict[tuple[Direction, ...], str]] = {(Direction.EGRESS,): "source", (Direction.INGRESS,): "destination"}


def format_rows(edges: Iterable[EdgeView]) -> Iterator[tuple[str, ...]]:
    """Write edges as table rows under ``COLUMNS``: one for each verdict and reason; one for both sides' same one."""
    for edge in edges:
        for outcomes in group_outcomes(edge.outcomes):
            first = outcomes[0]
            sides = tuple(side for side in Direction if any(each.side is side for each in outcomes))
            service = next((each.service for each in outcomes if each.service), "")
            count = f"{count_connections(outcomes)}{'+' if edge.is_lossy else ''}"
            yield (
                describe_end(edge.source),
                describe_program(edge.source),
                describe_end(edge.destination),
                describe_program(edge.destination),
                service or "-",
                str(edge.port),
                first.transport,
                first.verdict.upper() if first.verdict == "deny" else first.verdict,
                first.reason,
                ", ".join(dict.fromkeys(each.rule for each in outcomes if each.rule)) or "-",
                _SIDES.get(sides, "both"),
                count if edge.is_counted else f"{count} (counted above)",
                format_time(max(each.last for each in outcomes)),
            )


def group_outcomes(outcomes: Sequence[EdgeOutcome]) -> list[list[EdgeOutcome]]:
    """Put together what both sides decided alike."""
    groups: dict[tuple[object, ...], list[EdgeOutcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.verdict, outcome.reason, outcome.transport), []).append(outcome)
    return list(groups.values())


def count_connections(outcomes: Sequence[EdgeOutcome]) -> int:
    """Count the connections of one group: both sides' counts are of the same ones."""
    return max(sum(each.connections for each in outcomes if each.side is side) for side in Direction)


def describe_end(end: EdgeEnd) -> str:
    """Name the proven workload or foreign identity; else what is known, as not proven."""
    if end.workload or end.identity:
        return end.workload or end.identity
    return f"unidentified {end.name}"


def describe_program(end: EdgeEnd) -> str:
    """Name a program by its file and the beginning of its digest."""
    digest = shorten(end.program)
    name = PurePosixPath(end.path).name
    return f"{name} {digest}" if name else digest


def format_coverage(workloads: Iterable[WorkloadCoverage], *, now: float) -> Iterator[tuple[str, ...]]:
    """Write coverage as table rows under ``COVERAGE_COLUMNS``."""
    for one in workloads:
        yield (
            one.workload,
            str(one.pods),
            f"{one.from_start} of {one.pods}",
            str(one.silent),
            str(one.restarts),
            str(one.records),
            str(one.lost),
            str(one.hours_seen),
            f"{format_duration(max(0.0, now - one.newest))} ago" if one.newest else "never",
        )


def format_timeline(hours: Iterable[TimelineHour]) -> Iterator[tuple[str, ...]]:
    """Write hours as table rows under ``TIMELINE_COLUMNS``."""
    for hour in hours:
        counts = (hour.allowed, hour.would_deny, hour.denied, hour.sidecars, hour.lost)
        yield (format_time(hour.start), *map(str, counts))
