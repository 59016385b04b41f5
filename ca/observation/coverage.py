"""How much of each workload was observed: what no edge shows isn't known to be absent. Pure.

Silence is never health: a workload of which nothing arrived is covered by nothing.
"""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

import msgspec

from ca.store.edges.edge import ReportHour
from ca.store.records import SidecarRecord
from shared.model.wire.admin_edges import WorkloadCoverage

OLD_S: Final = 3600.0
_HOUR_S: Final = 3600
_WEEKDAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def cover(
    reports: Iterable[ReportHour], sidecars: Iterable[SidecarRecord], *, namespace: str, now: float
) -> list[WorkloadCoverage]:
    """Return each workload's coverage, by name.

    Arguments:
        reports: of the namespace and the window.
        sidecars: all that are known; those of the namespace with a stream count as its pods.
    """
    of: dict[str, list[ReportHour]] = defaultdict(list)
    pods: dict[str, set[str]] = defaultdict(set)
    for report in reports:
        workload = f"{report.namespace}/{report.service_account}"
        of[workload].append(report)
        pods[workload].add(report.instance)
    connected: dict[str, set[str]] = defaultdict(set)
    for sidecar in sidecars:
        if sidecar.workload.namespace == namespace and sidecar.connected:
            connected[str(sidecar.workload)].add(sidecar.instance)
    names = sorted({*of, *connected})
    return [_cover(name, of[name], pods[name], connected[name], now=now) for name in names]


def _cover(
    workload: str, reports: list[ReportHour], reporting: set[str], connected: set[str], *, now: float
) -> WorkloadCoverage:
    starts: dict[str, int] = defaultdict(int)
    for report in reports:
        starts[report.instance] += report.starts
    seen = [report for report in reports if report.records]
    moments = [datetime.datetime.fromtimestamp(report.hour * _HOUR_S, datetime.UTC) for report in seen]
    from_start = {instance for instance in reporting if _is_from_start(instance, reports)}
    newest = max((report.last for report in seen), default=0.0)
    coverage = WorkloadCoverage(
        workload=workload,
        pods=len(reporting | connected),
        from_start=len(from_start),
        silent=len(connected - {report.instance for report in seen}),
        restarts=sum(max(0, count - 1) for count in starts.values()),
        records=sum(report.records for report in reports),
        lost=sum(report.lost for report in reports),
        lossy_hours=len({report.hour for report in reports if report.lost}),
        hours_seen=len({report.hour for report in seen}),
        hours_of_day=tuple(sorted({moment.hour for moment in moments})),
        weekdays=tuple(sorted({moment.weekday() for moment in moments})),
        newest=newest,
    )
    return _with_gaps(coverage, now=now)


def _is_from_start(instance: str, reports: list[ReportHour]) -> bool:
    """Tell whether the oldest report of an instance is of a sidecar that had just started."""
    oldest = min((report for report in reports if report.instance == instance), key=lambda report: report.hour)
    return oldest.starts > 0


def _with_gaps(coverage: WorkloadCoverage, *, now: float) -> WorkloadCoverage:
    gaps = []
    if not coverage.records:
        gaps.append("nothing was seen: silence says nothing about what it would do")
    missed = coverage.pods - coverage.from_start
    if missed:
        gaps.append(f"{missed} of {coverage.pods} pods weren't observed from their start")
    if coverage.silent and coverage.records:
        gaps.append(f"{coverage.silent} of {coverage.pods} pods reported nothing")
    if coverage.lost:
        gaps.append(f"records were lost in {coverage.lossy_hours} hours: counts are lower bounds")
    if coverage.records and now - coverage.newest > OLD_S:
        gaps.append(f"nothing for {(now - coverage.newest) / 3600:.0f} hours")
    unseen = [hour for hour in range(24) if hour not in coverage.hours_of_day]
    if coverage.records and unseen:
        gaps.append(f"never seen at these hours (UTC): {_join_ranges(unseen)}")
    if coverage.records and len(coverage.weekdays) < 7:
        missing = ", ".join(name for day, name in enumerate(_WEEKDAYS) if day not in coverage.weekdays)
        gaps.append(f"never seen on {missing}")
    return msgspec.structs.replace(coverage, gaps=tuple(gaps))


def _join_ranges(hours: list[int]) -> str:
    ranges: list[tuple[int, int]] = []
    for hour in hours:
        if ranges and ranges[-1][1] == hour - 1:
            ranges[-1] = (ranges[-1][0], hour)
        else:
            ranges.append((hour, hour))
    return ", ".join(str(low) if low == high else f"{low} to {high}" for low, high in ranges)
