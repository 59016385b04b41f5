"""``touchmark connections``: the live ones, as the sidecars report them now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import options
from cli.text.json_result import JsonResult, prints

if TYPE_CHECKING:
    from shared.model.wire.admin import ConnectionList
    from shared.model.wire.messages import LiveConnection

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

    `touchmark edges` sums up past ones by workload and program. In a cluster every replica of the CA is queried;
    otherwise only the one behind the admin socket.

    Examples: touchmark connections · touchmark connections --limit 50 --json
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


def name_columns() -> tuple[str, ...]:
    """Return the headings of ``list_rows``."""
    return _COLUMNS


def list_rows(connections: Iterable[tuple[str, LiveConnection]]) -> Iterator[tuple[str, ...]]:
    """Write live connections, each with its sidecar, as table rows."""
    import time

    from cli.text.duration import format_duration
    from cli.text.output import shorten

    now = time.time()
    for sidecar, connection in connections:
        yield (
            sidecar,
            connection.direction,
            connection.source_workload or f"unidentified {connection.source}",
            shorten(connection.source_program),
            connection.destination_workload or f"unidentified {connection.destination}",
            shorten(connection.destination_program),
            connection.transport + (" (would deny)" if connection.would_deny else ""),
            format_duration(now - connection.since),
            str(connection.bytes_sent),
            str(connection.bytes_received),
            connection.process or "-",
        )


def _show(answer: ConnectionList) -> None:
    from cli.text.output import print_note, print_table

    print_table(
        _COLUMNS,
        list_rows((view.sidecar, view.connection) for view in answer.connections),
        empty="no live connections",
    )
    if answer.silent:
        print_note(f"no answer from: {', '.join(answer.silent)}")
    if answer.truncated:
        print_note("the list is truncated; raise --limit")
