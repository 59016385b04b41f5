"""``touchmark connections``: the live ones, as the sidecars report them now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import options

if TYPE_CHECKING:
    from shared.model.wire.admin import ConnectionList


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
    import time

    from cli.backends.session import ask_admin, open_cluster
    from cli.text.duration import format_duration
    from cli.text.output import print_json, print_note, print_table, shorten

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
        print_json(answer)
        return
    now = time.time()
    print_table(
        (
            "SIDECAR",
            "SIDE",
            "SOURCE",
            "PROGRAM",
            "DESTINATION",
            "PROGRAM",
            "TRANSPORT",
            "AGE",
            "SENT",
            "RECEIVED",
            "PROCESS",
        ),
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
