"""``touchmark connections``: the live ones, as the sidecars report them now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import options
from cli.text.json_result import JsonResult, prints

if TYPE_CHECKING:
    from shared.model.wire.admin import ConnectionList

_CONNECTIONS: JsonResult[ConnectionList] = JsonResult()
_COLUMNS = (
    "SIDECAR", "SIDE", "SOURCE", "PROGRAM", "DESTINATION", "PROGRAM", "TRANSPORT", "AGE", "SENT", "RECEIVED", "PROCESS",
)  # fmt: skip


@prints(_CONNECTIONS)
def connections(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number of connections.")] = 200,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0.1, max=10, help="Seconds to wait for sidecars.")] = 3.0,
    as_json: options.Json = False,
) -> None:
    """List the live connections of all sidecars that answer.

    In a cluster every replica of the CA is queried; otherwise only the one behind the admin socket.
    """
    import asyncio

    from cli.backends.session import ask_admin, open_cluster

    target = options.get_target(context)
    query = {"limit": str(limit), "timeout_s": str(timeout_s)}
    if target.in_cluster:
        from cli.cluster.replicas import list_connections

        async def ask_replicas() -> ConnectionList:
            async with open_cluster(target) as cluster:
                return await list_connections(cluster, target.system_namespace, query, limit=limit)

        answer = asyncio.run(ask_replicas())
    else:
        answer = ask_admin(target, lambda client: client.list_connections(query))
    if as_json:
        _CONNECTIONS.print(answer)
    else:
        _show(answer)


def _show(answer: ConnectionList) -> None:
    import time

    from cli.text.duration import format_duration
    from cli.text.output import print_note, print_table, shorten

    now = time.time()
    print_table(
        _COLUMNS,
        (
            (
                view.sidecar,
                view.connection.direction,
                view.connection.source_workload or f"unidentified {view.connection.source}",
                shorten(view.connection.source_program),
                view.connection.destination_workload or f"unidentified {view.connection.destination}",
                shorten(view.connection.destination_program),
                view.connection.transport + (" (would deny)" if view.connection.would_deny else ""),
                format_duration(now - view.connection.since),
                str(view.connection.bytes_sent),
                str(view.connection.bytes_received),
                view.connection.process or "-",
            )
            for view in answer.connections
        ),
        empty="no live connections",
    )
    if answer.silent:
        print_note(f"no answer from: {', '.join(answer.silent)}")
    if answer.truncated:
        print_note("the list is truncated; raise --limit")
