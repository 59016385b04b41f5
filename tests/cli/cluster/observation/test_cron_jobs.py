"""A CronJob that didn't start in the window is named, and what wasn't seen isn't ready."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from cli.cluster.observation.cron_jobs import MAX_NAMED, add_gaps, describe_gaps
from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.wire.admin import ReadinessVerdict
from shared.model.wire.admin_edges import CoverageList
from tests.cli.commands.test_ready import COVERAGE, make_readiness
from tests.cli.fake_api import FakeAPI, make_status
from tests.cli.fake_ca import FakeCA

SINCE = 1_790_000_000.0  # 2026-09-21T14:13:20Z
BEFORE, WITHIN = "2026-09-20T03:00:00Z", "2026-09-22T03:00:00Z"
LISTED = "GET /apis/batch/v1/namespaces/shop/cronjobs"


def make(name: str, started: str = "", *, account: str = "backup", **spec: Any) -> dict[str, Any]:
    template = {"spec": {"template": {"spec": {"serviceAccountName": account} if account else {}}}}
    return {
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"schedule": "0 3 * * *", "jobTemplate": template, **spec},
        "status": {"lastScheduleTime": started} if started else {},
    }


def test_what_didnt_start_in_the_window_is_named_with_its_workload() -> None:
    listed = [make("weekly", BEFORE), make("never", account=""), make("nightly", WITHIN), make("off", suspend=True)]
    never, weekly = describe_gaps(listed, "shop", since=SINCE)
    assert never.startswith("CronJob never (0 3 * * *) of shop/default has never started: ")
    assert weekly.startswith("CronJob weekly (0 3 * * *) of shop/backup was last started 2026-09-20 03:00:00Z: ")
    assert len(describe_gaps(listed, "shop", since=SINCE, workload="shop/backup")) == 1
    assert describe_gaps(listed, "shop", since=SINCE, workload="shop/web") == ()


def test_there_are_bounds_and_a_schedule_writes_nothing_to_a_terminal() -> None:
    many = describe_gaps([make(f"job-{number}") for number in range(MAX_NAMED + 5)], "shop", since=SINCE)
    assert len(many) == MAX_NAMED + 1
    assert many[-1] == "and 5 more CronJobs didn't start in this time"
    (said,) = describe_gaps([make("job", schedule="\x1b[2J")], "shop", since=SINCE)
    assert "\x1b" not in said
    assert describe_gaps([make("job", "no time")], "shop", since=SINCE), "a time that can't be read is none"


@pytest.mark.parametrize("verdict", [*ReadinessVerdict, None])
def test_what_wasnt_seen_is_unknown_and_blocked_stays_so(verdict: ReadinessVerdict | None) -> None:
    readiness = make_readiness(verdict)
    assert add_gaps(readiness, ()) == readiness
    found = add_gaps(readiness, ("gap",))
    assert found.unknowns[-1] == "gap"
    assert found.verdict == (ReadinessVerdict.UNKNOWN if verdict is ReadinessVerdict.READY else verdict)


def test_ready_and_coverage_of_a_cluster_name_it(
    cluster_ca: FakeCA, api: FakeAPI, capsys: pytest.CaptureFixture[str]
) -> None:
    ready = msgspec.structs.replace(make_readiness(ReadinessVerdict.READY), since=SINCE)
    cluster_ca.answers["GET /v1/namespaces/shop/readiness"] = ready
    cluster_ca.answers["GET /v1/namespaces/shop/coverage"] = CoverageList(
        namespace="shop", since=SINCE, workloads=(COVERAGE,)
    )
    api.answers[LISTED] = {"items": [make("weekly", BEFORE)]}
    assert run(["ready", "shop", "-k"]) == ExitCode.UNKNOWN
    assert "? CronJob weekly" in capsys.readouterr().out
    assert run(["coverage", "shop", "-k"]) == ExitCode.SUCCESS
    assert "CronJob weekly" in capsys.readouterr().out
    assert run(["coverage", "shop", "-k", "--json"]) == ExitCode.SUCCESS
    assert json.loads(capsys.readouterr().out)["gaps"][0].startswith("CronJob weekly")
    for answer in ({"items": [make("nightly", WITHIN)]}, make_status(403, "Forbidden", "you cannot list cronjobs")):
        api.answers[LISTED] = answer
        assert run(["ready", "shop", "-k"]) == ExitCode.SUCCESS
        assert "CronJob" not in capsys.readouterr().out
