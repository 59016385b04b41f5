"""``touchmark coverage``: how much of each workload was observed, and what wasn't."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import options
from cli.text.json_result import JsonResult, prints

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.model.wire.admin import CoverageList, WorkloadCoverage

_COVERAGE: JsonResult[CoverageList] = JsonResult()


@prints(_COVERAGE)
def coverage(
    context: typer.Context,
    namespace: Annotated[str, typer.Argument(help="The namespace.")],
    since: Annotated[str, typer.Option(help="How far back: 90s, 30m, 24h, 7d; widened to whole hours.")] = "7d",
    as_json: options.Json = False,
) -> None:
    """Show how much of each workload was observed: what wasn't seen may still happen.

    Pods whose sidecar reported since its start, restarts, records and losses, the age of the newest record, and hours
    and weekdays at which nothing was ever seen. In a cluster also CronJobs that didn't start in this time, if you may
    list them.

    Examples: touchmark coverage shop · touchmark coverage shop --since 30d --json
    """
    import asyncio
    import time

    from msgspec.structs import replace

    from cli.backends.session import ask_admin, find_gaps
    from cli.commands.edges import build_query
    from cli.commands.unknown_namespace import refuse_unknown
    from cli.text.output import print_line, print_note

    target = options.get_target(context)
    query = {"since": build_query(since=since, limit=1)["since"]}
    answer = ask_admin(target, lambda client: client.get_coverage(namespace, query))
    if not answer.workloads:
        refuse_unknown(target, namespace)
    if target.in_cluster:
        answer = replace(answer, gaps=asyncio.run(find_gaps(target, namespace, since=answer.since)))
    if as_json:
        _COVERAGE.print(answer)
        return
    show_coverage(answer.workloads, now=time.time())
    for gap in answer.gaps:
        print_line(gap)
    if answer.is_truncated:
        print_note("only the newest reports were looked at; use a shorter --since")


def show_coverage(workloads: Sequence[WorkloadCoverage], *, now: float) -> None:
    """Print coverage as a table, and below it what isn't known of each workload."""
    from cli.text.edge import COVERAGE_COLUMNS, format_coverage
    from cli.text.output import print_line, print_table

    print_table(
        COVERAGE_COLUMNS,
        format_coverage(workloads, now=now),
        empty="no workload of this namespace has ever reported: nothing is known of it",
    )
    sharing: dict[str, list[str]] = {}  # In a new mesh all workloads have the same: never seen at night, or on Sundays.
    for workload in workloads:
        for gap in workload.gaps:
            sharing.setdefault(gap, []).append(str(workload.workload))
    for gap, names in sharing.items():
        print_line(f"{', '.join(names)}: {gap}")
