"""Coverage says what wasn't seen; silence is a gap."""

from __future__ import annotations

from ca.observation.coverage import cover
from ca.store.edges.edge import ReportHour
from ca.store.records import SidecarRecord
from shared.model.identity.identity import Workload

MONDAY = 496_704  # The hour since the epoch that begins on Monday, 2026-08-31, at 00:00 UTC.


def hour(
    instance: str, number: int, *, records: int = 5, lost: int = 0, starts: int = 0, account: str = "web"
) -> ReportHour:
    moment = (MONDAY + number) * 3600.0
    return ReportHour(
        instance=instance,
        hour=MONDAY + number,
        namespace="shop",
        service_account=account,
        records=records,
        lost=lost,
        starts=starts,
        first=moment,
        last=moment + 60,
    )


def sidecar(instance: str, account: str, *, namespace: str = "shop", connected: bool = True) -> SidecarRecord:
    workload = Workload(namespace=namespace, service_account=account)
    return SidecarRecord(instance=instance, workload=workload, allowed_addresses=(), connected=connected)


def test_what_was_missed_is_said_in_words() -> None:
    reports = [hour("a", 9, starts=1), hour("a", 33, starts=2, lost=3), hour("b", 10, starts=0)]
    sidecars = [sidecar("a", "web"), sidecar("c", "web"), sidecar("z", "web", namespace="bank")]
    (web,) = cover(reports, sidecars, namespace="shop", now=(MONDAY + 36) * 3600.0)
    assert (web.workload, web.pods, web.from_start, web.silent, web.restarts) == ("shop/web", 3, 1, 1, 2)
    assert (web.records, web.lost, web.lossy_hours, web.hours_seen) == (15, 3, 1, 3)
    assert (web.hours_of_day, web.weekdays) == ((9, 10), (0, 1))
    assert web.gaps == (
        "2 of 3 pods weren't observed from their start",
        "1 of 3 pods reported nothing",
        "records were lost in 1 hours: counts are lower bounds",
        "nothing for 3 hours",
        "never seen at these hours (UTC): 0 to 8, 11 to 23",
        "never seen on Wednesday, Thursday, Friday, Saturday, Sunday",
    )


def test_silence_is_never_health() -> None:
    (job,) = cover([], [sidecar("j", "job"), sidecar("k", "job", connected=False)], namespace="shop", now=1.0)
    assert (job.pods, job.silent, job.newest) == (1, 1, 0.0)
    assert job.gaps[0] == "nothing was seen: silence says nothing about what it would do"
    assert cover([], [], namespace="shop", now=1.0) == []


def test_a_week_without_a_gap_has_none() -> None:
    reports = [hour("a", number, starts=int(number == 0)) for number in range(7 * 24)]
    (web,) = cover(reports, [sidecar("a", "web")], namespace="shop", now=(MONDAY + 167) * 3600.0 + 90)
    assert web.gaps == ()


def test_a_report_of_a_loss_alone_is_no_observation() -> None:
    (web,) = cover([hour("a", 9, records=0, lost=2)], [], namespace="shop", now=(MONDAY + 10) * 3600.0)
    assert (web.hours_seen, web.hours_of_day, web.newest, web.lost) == (0, (), 0.0, 2)
    assert "nothing was seen" in web.gaps[0]
