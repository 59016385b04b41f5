"""``touchmark top``: who talks to whom now, the busiest and the refused first."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cli.commands import options
from cli.text.json_result import JsonResult, prints

if TYPE_CHECKING:
    from cli.admin.client import AdminClient
    from cli.graph.graph import Graph
    from shared.model.wire.admin import EdgeList

_COLUMNS: Final = ("SOURCE", "DESTINATION", "PORT", "VERDICT", "REASON", "PER SECOND")
_CLEAR: Final = "\x1b[H\x1b[2J"
_WINDOW: Final = "1h"


@dataclass(frozen=True, slots=True, kw_only=True)
class TopLink:
    """Connections from one workload to another's port.

    Attributes:
        verdict: the strictest of the window.
        per_second: since the look before; None at the first look, and where an hour has begun since.
        connections: of the window: the last hour, widened to whole hours.
    """

    source: str
    destination: str
    port: int
    verdict: str
    reasons: tuple[str, ...]
    per_second: float | None
    connections: int
    is_lossy: bool


_TOP: JsonResult[list[TopLink]] = JsonResult(note="one look")


@prints(_TOP)
def top(
    context: typer.Context,
    namespace: Annotated[str, typer.Argument(help="Edges of which at least one end is in this namespace.")],
    interval: Annotated[float, typer.Option(min=1, max=3600, help="Seconds between two looks.")] = 2.0,
    limit: Annotated[int, typer.Option(min=1, max=500, help="Lines.")] = 30,
    once: Annotated[bool, typer.Option("--once", help="Look once and end.")] = False,
    as_json: options.Json = False,
) -> None:
    """Show live who talks to whom, with verdicts and rates; the busiest first, until Ctrl-C.

    Rates are of connections that ended or were refused since the look before; the first look has none. Numbers are of
    whole hours: of the current one and of the one before. Where the output
    isn't a terminal, and with --json, it looks once.

    Examples: touchmark top shop · touchmark top shop --once · touchmark top shop --json -k
    """
    from cli.backends.session import ask_admin

    is_live = not (once or as_json) and sys.stdout.isatty()

    async def watch(client: AdminClient) -> None:
        before: EdgeList | None = None
        looked = 0.0
        while True:
            answer, now = await _look(client, namespace), time.monotonic()
            links = rank(answer, before, elapsed_s=now - looked)[:limit]
            _show(links, answer, is_live=is_live, as_json=as_json)
            if not is_live:
                return
            before, looked = answer, now
            await asyncio.sleep(interval)

    ask_admin(options.get_target(context), watch)


async def _look(client: AdminClient, namespace: str) -> EdgeList:
    from cli.commands.edges import build_query
    from shared.model.wire.admin import MAX_EDGES_LISTED

    return await client.list_edges(namespace, build_query(since=_WINDOW, limit=MAX_EDGES_LISTED))


def rank(answer: EdgeList, before: EdgeList | None, *, elapsed_s: float) -> list[TopLink]:
    """Return links, the busiest first: by rate, then by number.

    Arguments:
        before: the look before; None: this is the first.
        elapsed_s: since then.
    """
    # Another window has other hours: what it counts can't be compared.
    is_comparable = before is not None and before.since == answer.since and elapsed_s > 0
    known = _count(_join(before)) if before is not None and is_comparable else {}
    links = [
        TopLink(
            source=link.source,
            destination=link.destination,
            port=link.port,
            verdict=link.verdict,
            reasons=link.reasons,
            per_second=max(0, link.connections - known.get((link.source, link.destination, link.port), 0)) / elapsed_s
            if is_comparable
            else None,
            connections=link.connections,
            is_lossy=link.is_lossy,
        )
        for link in _join(answer).links
    ]
    return sorted(links, key=lambda each: (-(each.per_second or 0.0), -each.connections, each.source, each.destination))


def _join(answer: EdgeList) -> Graph:
    from cli.graph.graph import join_edges

    return join_edges(answer.namespace, answer.edges, since=answer.since, until=answer.until)


def _count(graph: Graph) -> Mapping[tuple[str, str, int], int]:
    return {(link.source, link.destination, link.port): link.connections for link in graph.links}


def _show(links: list[TopLink], answer: EdgeList, *, is_live: bool, as_json: bool) -> None:
    from cli.text.duration import format_time
    from cli.text.output import print_note, print_table

    if as_json:
        _TOP.print(links)
        return
    if is_live:
        sys.stdout.write(_CLEAR)
        sys.stdout.flush()
    rows = [
        (
            each.source,
            each.destination,
            str(each.port),
            each.verdict.upper() if each.verdict == "deny" else each.verdict,
            ", ".join(each.reasons),
            "-" if each.per_second is None else f"{each.per_second:.1f}",
            f"{each.connections}{'+' if each.is_lossy else ''}",
        )
        for each in links
    ]
    since = f"SINCE {format_time(answer.since)}"
    print_table((*_COLUMNS, since), rows, empty="nothing was seen in the last hour; that isn't that nothing is")
    if answer.is_truncated or len(answer.edges) < answer.total:
        print_note("the namespace has more edges than are looked at")
