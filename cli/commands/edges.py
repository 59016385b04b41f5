"""``touchmark edges``: who talked to whom, by workload and program, how often, and what was decided."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import options
from cli.text.json_result import JsonResult, prints

if TYPE_CHECKING:
    from shared.model.wire.admin import EdgeList

_EDGES: JsonResult[EdgeList] = JsonResult(note="by names; connections of both sides' outcomes are the same ones")


@prints(_EDGES)
def edges(
    context: typer.Context,
    namespace: Annotated[str, typer.Argument(help="Edges of which at least one end is in this namespace.")],
    since: Annotated[str, typer.Option(help="How far back: 90s, 30m, 24h, 7d; widened to whole hours.")] = "24h",
    workload: Annotated[str, typer.Option(help="Only with this workload (NAME or NAMESPACE/NAME) at either end.")] = "",
    denied: Annotated[bool, typer.Option("--denied", help="Only with refused connections.")] = False,
    would_deny: Annotated[
        bool, typer.Option("--would-deny", help="Only with connections that explicit mode would refuse.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=5_000, help="Maximum number of edges.")] = 1_000,
    offset: Annotated[int, typer.Option(min=0, help="Leave out as many edges first.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Show who talked to whom: both ends' workload and program, Service and port, how often, verdict and reason.

    Each connection is counted once, by its source's sidecar; SIDE says who decided so. A + behind a count: records were
    lost, there were more. `touchmark connections` shows live connections, `touchmark decisions` single ones, and
    `touchmark coverage` how much was observed at all.

    Examples: touchmark edges shop · touchmark edges shop --since 7d --denied · touchmark edges shop --json
    """
    from cli.backends.session import ask_admin
    from cli.commands.unknown_namespace import refuse_unknown
    from cli.text.edge import COLUMNS, format_rows
    from cli.text.output import print_note, print_table

    target = options.get_target(context)
    query = build_query(
        namespace=namespace, since=since, workload=workload, denied=denied, would_deny=would_deny, limit=limit,
        offset=offset,
    )  # fmt: skip
    answer = ask_admin(target, lambda client: client.list_edges(namespace, query))
    if not answer.total:
        refuse_unknown(target, namespace)
    if as_json:
        _EDGES.print(answer)
        return
    print_table(
        COLUMNS, format_rows(answer.edges), empty="no matching edges; that nothing was seen isn't that nothing is"
    )
    if any(edge.is_lossy for edge in answer.edges):
        print_note(f"warning: records were lost in this window; see touchmark coverage {namespace}")
    if offset + len(answer.edges) < answer.total:
        print_note(f"{len(answer.edges)} of {answer.total} edges; use --offset, --workload or a greater --limit")
    if answer.is_truncated:
        print_note("the namespace has more edges than are looked at: those seen last are shown; use a shorter --since")


def build_query(
    *,
    since: str,
    namespace: str = "",
    workload: str = "",
    denied: bool = False,
    would_deny: bool = False,
    limit: int,
    offset: int = 0,
) -> dict[str, str]:
    """Check the filters and write them as the admin API's query.

    Arguments:
        namespace: of a workload that is named by its service account alone.

    Raises:
        InputError: a filter has a wrong shape.
    """
    import time

    from cli.text.duration import parse_duration
    from shared.model.identity.identity import parse_workload

    if workload and namespace and "/" not in workload:
        workload = f"{namespace}/{workload}"
    return {
        "since": str(max(0.0, time.time() - parse_duration(since, "--since"))),
        "workload": str(parse_workload(workload)) if workload else "",
        "denied": "true" if denied else "",
        "would_deny": "true" if would_deny else "",
        "limit": str(limit),
        "offset": str(offset) if offset else "",
    }
