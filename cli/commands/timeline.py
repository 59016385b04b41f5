"""``touchmark timeline``: what a namespace's own sidecars decided, by the hour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import options
from cli.text.json_result import JsonResult, prints

if TYPE_CHECKING:
    from shared.model.wire.admin_edges import Timeline

_TIMELINE: JsonResult[Timeline] = JsonResult(note="an hour in which no sidecar reported isn't there")


@prints(_TIMELINE)
def timeline(
    context: typer.Context,
    namespace: Annotated[str, typer.Argument(help="The namespace.")],
    since: Annotated[str, typer.Option(help="How far back: 90s, 30m, 24h, 7d; widened to whole hours.")] = "24h",
    as_json: options.Json = False,
) -> None:
    """Show what a namespace's own sidecars decided, by the hour: since when is something refused, when was it quiet?

    A connection between two workloads of the namespace counts at each. An hour without a line: no sidecar reported,
    or it is older than what the CA keeps (30 days by default, 31 at most). Where records were lost, the counts are
    lower bounds.

    Examples: touchmark timeline shop · touchmark timeline shop --since 7d --json
    """
    from cli.backends.session import ask_admin
    from cli.commands.edges import build_query
    from cli.commands.unknown_namespace import refuse_unknown
    from cli.text.edge import TIMELINE_COLUMNS, format_timeline
    from cli.text.output import print_table

    target = options.get_target(context)
    query = {"since": build_query(since=since, limit=1)["since"]}
    answer = ask_admin(target, lambda client: client.get_timeline(namespace, query))
    if not answer.hours:
        refuse_unknown(target, namespace)
    if as_json:
        _TIMELINE.print(answer)
        return
    print_table(
        TIMELINE_COLUMNS,
        format_timeline(answer.hours),
        empty="no sidecar of this namespace reported in this time: nothing is known of it",
    )
