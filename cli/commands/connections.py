"""``touchmark connections``: the live ones, as the sidecars report them now."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.backends.target import Where, takes_where
from cli.commands import options


@takes_where
def connections(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 200,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0.1, max=10, help="Seconds to wait for sidecars.")] = 3.0,
    as_json: options.Json = False,
    *,
    where: Where,
) -> None:
    """List live connections of all sidecars that answer.

    In a cluster every replica of the CA is asked, on this machine the one whose admin socket it is.
    """
    import asyncio
    import time

    from cli.backends.conversation import talk
    from cli.text.duration import format_duration
    from cli.text.output import print_json, print_note, print_table, shorten

    query = {"limit": str(limit), "timeout_s": str(timeout_s)}
    if where.in_cluster:
        from cli.cluster.replicas import list_connections

        answer = asyncio.run(list_connections(where, query, limit=limit))
    else:
        answer = talk(where, lambda client: client.list_connections(query))
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
            "OVER",
            "FOR",
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
        empty="no live connection",
    )
    if answer.silent:
        print_note(f"no answer from: {', '.join(answer.silent)}")
    if answer.truncated:
        print_note("there are more; --limit shows them")
