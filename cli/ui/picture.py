"""A namespace's edges as the page shows them: links for its table, places for its picture. Pure.

Belongs here: which links are shown, which are drawn, and where their ends stand. The same edges and filters always give
the same answer. Doesn't: drawing (``static/picture.js``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Final

from cli.graph.graph import MAX_LINKS, MAX_NODES, Graph, Link, Node, describe_count, join_edges
from cli.graph.layout import lay_out
from cli.text.edge import describe_program
from cli.ui.drafts import ALLOWED, DENIED, MARKED, Redecided
from cli.ui.shapes import PlacedNode, ShownEdges, ShownLink
from shared.model.wire.admin import DraftView
from shared.model.wire.admin_edges import EdgeList, EdgeView

HUB_NEIGHBOURS: Final = 12
MAX_PROGRAMS: Final = 5
_CHANGED: Final = {DENIED: 0, MARKED: 1, ALLOWED: 2}
_ORDER: Final = {"deny": 0, "would deny": 1, "allow": 2}


class Show(StrEnum):
    """Which links are shown. ``OPEN``: what isn't settled: refused, or refused by explicit mode."""

    OPEN = "open"
    DENIED = "denied"
    WOULD_DENY = "would_deny"
    ALL = "all"


_SHOWN: Final = {
    Show.OPEN: frozenset({"deny", "would deny"}),
    Show.DENIED: frozenset({"deny"}),
    Show.WOULD_DENY: frozenset({"would deny"}),
    Show.ALL: frozenset(_ORDER),
}


def show_edges(
    answer: EdgeList, *, show: Show, node: str = "", hides_hubs: bool = False, draft: DraftView | None = None
) -> ShownEdges:
    """Choose and place what is shown.

    Arguments:
        draft: show verdicts under this one, and what it changes as not settled.
        node: only links of which this is an end; empty: all.
        hides_hubs: leave ends with ``HUB_NEIGHBOURS`` neighbours or more out of the picture; the table has them.
    """
    graph = join_edges(answer.namespace, answer.edges, since=answer.since, until=answer.until)
    bundles: dict[tuple[str, str, int], list[EdgeView]] = defaultdict(list)
    for edge in answer.edges:
        bundles[edge.source.name, edge.destination.name, edge.port].append(edge)
    links = [(link, "", "") for link in graph.links]
    if draft is not None:
        links = list(_redecide(graph.links, bundles, Redecided(draft)))
    chosen_links = sorted(
        (
            (link, before, change)
            for link, before, change in links
            if (link.verdict in _SHOWN[show] or (show is Show.OPEN and change in _CHANGED))
            and (not node or node in (link.source, link.destination))
        ),
        key=lambda each: (_CHANGED.get(each[2], 9), *_rank(each[0])),
    )
    chosen = [link for link, _, _ in chosen_links]
    neighbours = _find_neighbours(chosen)
    hidden = {
        name for name, others in neighbours.items() if hides_hubs and name != node and len(others) >= HUB_NEIGHBOURS
    }
    drawn = [number for number, link in enumerate(chosen) if not {link.source, link.destination} & hidden]
    names = {name for number in drawn for name in (chosen[number].source, chosen[number].destination)}
    nodes = tuple(each for each in graph.nodes if each.name in names)
    undrawn = ""
    if len(nodes) > MAX_NODES or len(drawn) > MAX_LINKS:
        undrawn = (
            f"{len(nodes)} ends and {len(drawn)} links: a picture shows at most {MAX_NODES} and {MAX_LINKS}. "
            "Narrow it; the table has everything."
        )
        nodes, drawn = (), []
    return ShownEdges(
        namespace=answer.namespace,
        since=answer.since,
        until=answer.until,
        links=tuple(
            _show_link(link, bundles[link.source, link.destination, link.port], before=before, change=change)
            for link, before, change in chosen_links
        ),
        nodes=_place(graph, nodes, [chosen[number] for number in drawn], neighbours),
        drawn=tuple(drawn),
        hidden=tuple(sorted(hidden)),
        undrawn=undrawn,
        total=answer.total,
        read=len(answer.edges),
        is_truncated=answer.is_truncated,
    )


def _redecide(
    links: Iterable[Link], bundles: Mapping[tuple[str, str, int], Sequence[EdgeView]], redecided: Redecided
) -> Iterator[tuple[Link, str, str]]:
    for link in links:
        key = link.source, link.destination, link.port
        verdict, change, reasons = redecided.decide(key, bundles[key])
        yield replace(link, verdict=verdict, reasons=reasons), link.verdict, change


def _rank(link: Link) -> tuple[int, int, str, str, int]:
    return _ORDER[link.verdict], -link.connections, link.source, link.destination, link.port


def _find_neighbours(links: Iterable[Link]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for link in links:
        if link.source != link.destination:
            found[link.source].add(link.destination)
            found[link.destination].add(link.source)
    return found


def _place(
    graph: Graph, nodes: Sequence[Node], links: Sequence[Link], neighbours: dict[str, set[str]]
) -> tuple[PlacedNode, ...]:
    places = lay_out(
        Graph(
            namespace=graph.namespace,
            since=graph.since,
            until=graph.until,
            nodes=tuple(nodes),
            links=tuple(sorted(links)),
        )
    )
    return tuple(
        PlacedNode(
            name=node.name,
            is_proven=node.is_proven,
            is_ours=node.is_ours,
            column=places[node.name].column,
            row=places[node.name].row,
            neighbours=len(neighbours.get(node.name, ())),
        )
        for node in nodes
    )


def _show_link(link: Link, edges: Sequence[EdgeView], *, before: str, change: str) -> ShownLink:
    return ShownLink(
        source=link.source,
        destination=link.destination,
        port=link.port,
        verdict=link.verdict,
        reasons=link.reasons,
        services=link.services,
        connections=link.connections,
        counted=describe_count(link) if not before else f"{link.connections}{'+' if link.is_lossy else ''} in all",
        is_lossy=link.is_lossy,
        is_plaintext=link.is_plaintext,
        source_programs=_name_programs(describe_program(edge.source) for edge in edges if edge.source.program),
        destination_programs=_name_programs(
            describe_program(edge.destination) for edge in edges if edge.destination.program
        ),
        last=max(edge.last for edge in edges),
        before=before,
        change=change,
    )


def _name_programs(names: Iterable[str]) -> tuple[str, ...]:
    found = list(dict.fromkeys(names))
    more = [f"and {len(found) - MAX_PROGRAMS} more"] if len(found) > MAX_PROGRAMS else []
    return tuple(found[:MAX_PROGRAMS] + more)
