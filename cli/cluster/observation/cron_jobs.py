"""CronJobs that didn't start in a window: what they do wasn't seen, and the CA doesn't know of them. I/O.

Belongs here: asking the API server with the user's rights, and saying what is missing. Doesn't: what was observed of
those that ran (the CA's coverage).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from cli.cluster.connection import Cluster, Kind, Object
from cli.text.duration import format_time
from cli.text.printable import escape
from shared.model.errors import TouchmarkError
from shared.model.wire.admin import Readiness, ReadinessVerdict

CRON_JOBS: Final = Kind(group="batch", version="v1", plural="cronjobs")
MAX_NAMED: Final = 20


async def find_gaps(cluster: Cluster, namespace: str, *, since: float, workload: str = "") -> tuple[str, ...]:
    """Say which CronJobs of a namespace didn't start since then; nothing where this user mayn't list them.

    Arguments:
        since: seconds since the epoch.
        workload: only those of this workload; empty: all.
    """
    try:
        listed = await cluster.list(CRON_JOBS, namespace)
    except TouchmarkError:
        return ()
    return describe_gaps(listed, namespace, since=since, workload=workload)


def describe_gaps(listed: Iterable[Object], namespace: str, *, since: float, workload: str = "") -> tuple[str, ...]:
    """Say which of these CronJobs didn't start since then, by name; suspended ones aren't expected to."""
    gaps = []
    for value in sorted(listed, key=lambda each: str(each["metadata"].get("name", ""))):
        spec = value.get("spec") or {}
        started = _read_time((value.get("status") or {}).get("lastScheduleTime"))
        subject = f"{namespace}/{_read_account(spec)}"
        if spec.get("suspend") or started >= since or workload not in ("", subject):
            continue
        what = f"{value['metadata'].get('name')} ({spec.get('schedule')}) of {subject}"
        when = f"was last started {format_time(started)}" if started else "has never started"
        gaps.append(f"CronJob {escape(what)} {when}: what it does wasn't seen in this time")
    if len(gaps) > MAX_NAMED:
        gaps[MAX_NAMED:] = [f"and {len(gaps) - MAX_NAMED} more CronJobs didn't start in this time"]
    return tuple(gaps)


def add_gaps(readiness: Readiness, gaps: tuple[str, ...]) -> Readiness:
    """Return a readiness that knows of them: explicit mode may refuse what hasn't been seen."""
    if not gaps:
        return readiness
    verdict = readiness.verdict
    return msgspec.structs.replace(
        readiness,
        unknowns=(*readiness.unknowns, *gaps),
        verdict=ReadinessVerdict.UNKNOWN if verdict is ReadinessVerdict.READY else verdict,
    )


async def complete(cluster: Cluster, readiness: Readiness) -> Readiness:
    """Return a readiness with the CronJobs that didn't start in its window."""
    gaps = await find_gaps(cluster, readiness.namespace, since=readiness.since, workload=readiness.workload)
    return add_gaps(readiness, gaps)


def _read_account(spec: dict[str, Any]) -> str:
    found: Any = spec
    for name in ("jobTemplate", "spec", "template", "spec", "serviceAccountName"):
        found = (found or {}).get(name)
    return str(found or "default")


def _read_time(text: Any) -> float:
    """Return an API server's time as seconds since the epoch; 0: none."""
    try:
        return datetime.fromisoformat(str(text)).astimezone(UTC).timestamp()
    except ValueError:
        return 0.0
