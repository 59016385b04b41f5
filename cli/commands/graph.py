"""``touchmark graph``: a namespace's edges as a picture."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import options
from cli.text.json_result import JsonResult, prints

if TYPE_CHECKING:
    from cli.admin.client import AdminClient
    from cli.graph.graph import Graph
    from shared.model.wire.admin import EdgeList

_GRAPH: JsonResult[Graph] = JsonResult(note="also with `--format json`")


class Format(StrEnum):
    """What the graph is written as."""

    SVG = "svg"
    DOT = "dot"
    MERMAID = "mermaid"
    JSON = "json"


@prints(_GRAPH)
def graph(
    context: typer.Context,
    namespace: Annotated[str, typer.Argument(help="Edges of which at least one end is in this namespace.")],
    form: Annotated[
        Format, typer.Option("--format", help="SVG, Graphviz' dot, mermaid, or the graph as JSON.")
    ] = Format.SVG,
    since: Annotated[str, typer.Option(help="How far back: 90s, 30m, 24h, 7d; widened to whole hours.")] = "24h",
    workload: Annotated[str, typer.Option(help="Only with this workload (NAME or NAMESPACE/NAME) at either end.")] = "",
    denied: Annotated[bool, typer.Option("--denied", help="Only with refused connections.")] = False,
    would_deny: Annotated[
        bool, typer.Option("--would-deny", help="Only with connections that explicit mode would refuse.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Draw who talked to whom: workloads as boxes, callers on the left, a line for each port.

    The strictest verdict of a line is told by its shape and a word: solid, dashed (would deny), dotted with a cross
    (deny). At most 300 boxes and 3,000 lines; `touchmark edges` lists the programs and everything else. The same edges
    always give the same picture.

    Examples: touchmark graph shop > shop.svg · touchmark graph shop --format dot | dot -Tpng > shop.png
    """
    from cli.backends.session import ask_admin
    from cli.commands.edges import build_query
    from cli.commands.unknown_namespace import refuse_unknown
    from cli.graph.graph import make_graph
    from cli.graph.svg import draw_svg
    from cli.graph.words import write_dot, write_mermaid
    from cli.text.output import print_note
    from shared.model.wire.admin import MAX_EDGES_LISTED

    target = options.get_target(context)
    query = build_query(
        namespace=namespace, since=since, workload=workload, denied=denied, would_deny=would_deny,
        limit=MAX_EDGES_LISTED,
    )  # fmt: skip

    async def ask(client: AdminClient) -> EdgeList:
        return await client.list_edges(namespace, query)

    answer = ask_admin(target, ask)
    if not answer.total:
        refuse_unknown(target, namespace)
    drawn = make_graph(namespace, answer.edges, since=answer.since, until=answer.until)
    if len(answer.edges) < answer.total or answer.is_truncated:
        print_note("warning: the namespace has more edges than were drawn; use --workload or a shorter --since")
    match Format.JSON if as_json else form:
        case Format.JSON:
            _GRAPH.print(drawn)
        case Format.SVG:
            typer.echo(draw_svg(drawn), nl=False)
        case Format.DOT:
            typer.echo(write_dot(drawn), nl=False)
        case Format.MERMAID:
            typer.echo(write_mermaid(drawn), nl=False)
