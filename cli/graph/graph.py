"""A namespace's edges as a graph of workloads: nodes by name, one link for each pair, port and verdict. Pure.

Programs and rules are in ``touchmark edges``; a picture of them would show nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cli.text.edge import count_connections, group_outcomes
from shared.model.errors import InputError
from shared.model.wire.admin_edges import EdgeEnd, EdgeOutcome, EdgeView

MAX_NODES: Final = 300
MAX_LINKS: Final = 3_000
_STRICTEST: Final = ("deny", "would deny", "allow")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Node:
    """One end.

    Attributes:
        is_proven: its name is proven by a certificate, in some connection.
        is_ours: it is a workload of the namespace.
    """

    name: str
    is_proven: bool
    is_ours: bool


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Link:
    """Connections between two nodes to one port.

    Attributes:
        verdict: ``deny``, ``would deny`` or ``allow``: the strictest of what either side decided.
        reasons: of that verdict.
        services: ``namespace/name:port`` by which the port was dialled.
        connections: of every verdict.
        with_verdict: how many of them had this verdict.
    """

    source: str
    destination: str
    port: int
    verdict: str
    reasons: tuple[str, ...]
    services: tuple[str, ...]
    connections: int
    with_verdict: int
    is_lossy: bool
    is_plaintext: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Nodes by name; links by their ends and ports."""

    namespace: str
    since: float
    until: float
    nodes: tuple[Node, ...]
    links: tuple[Link, ...]


def make_graph(namespace: str, edges: Iterable[EdgeView], *, since: float, until: float) -> Graph:
    """Draw edges together.

    Raises:
        InputError: there is more than a picture can show.
    """
    graph = join_edges(namespace, edges, since=since, until=until)
    if len(graph.nodes) > MAX_NODES or len(graph.links) > MAX_LINKS:
        raise InputError(
            f"{len(graph.nodes)} nodes and {len(graph.links)} links: a picture shows at most {MAX_NODES} and"
            f" {MAX_LINKS}",
            hint="use --workload, --denied or a shorter --since; `touchmark edges` lists everything",
        )
    return graph


def join_edges(namespace: str, edges: Iterable[EdgeView], *, since: float, until: float) -> Graph:
    """Draw edges together, however many there are."""
    nodes: dict[str, Node] = {}
    bundles: dict[tuple[str, str, int], list[EdgeView]] = {}
    for edge in edges:
        for end in (edge.source, edge.destination):
            known = nodes.get(end.name)
            node = _make_node(end, namespace)
            nodes[end.name] = Node(
                name=end.name,
                is_proven=node.is_proven or (known is not None and known.is_proven),
                is_ours=node.is_ours,
            )
        bundles.setdefault((edge.source.name, edge.destination.name, edge.port), []).append(edge)
    links = tuple(_make_link(*key, bundle) for key, bundle in sorted(bundles.items()))
    return Graph(namespace=namespace, since=since, until=until, nodes=tuple(sorted(nodes.values())), links=links)


def _make_node(end: EdgeEnd, namespace: str) -> Node:
    workload = end.workload or end.listed
    return Node(
        name=end.name,
        is_proven=bool(end.workload or end.identity),
        is_ours=workload.partition("/")[0] == namespace,
    )


def _count(edge: EdgeView, verdict: str) -> int:
    """Return how many of an edge's connections had a verdict, as ``touchmark edges`` adds them up."""
    groups = group_outcomes([outcome for outcome in edge.outcomes if outcome.verdict == verdict])
    return min(edge.connections, sum(count_connections(group) for group in groups))


def _make_link(source: str, destination: str, port: int, bundle: list[EdgeView]) -> Link:
    outcomes: list[EdgeOutcome] = [outcome for edge in bundle for outcome in edge.outcomes]
    verdict = next(each for each in _STRICTEST if any(outcome.verdict == each for outcome in outcomes))
    connections = sum(edge.connections for edge in bundle if edge.is_counted)
    # The connections of an edge that isn't counted are among another's of this link, or of another link.
    with_verdict = sum(_count(edge, verdict) for edge in bundle if edge.is_counted)
    with_verdict = with_verdict or min(connections, sum(_count(edge, verdict) for edge in bundle))
    return Link(
        source=source,
        destination=destination,
        port=port,
        verdict=verdict,
        reasons=tuple(sorted({outcome.reason.value for outcome in outcomes if outcome.verdict == verdict})),
        services=tuple(sorted({outcome.service for outcome in outcomes if outcome.service})),
        connections=connections,
        with_verdict=with_verdict,
        is_lossy=any(edge.is_lossy for edge in bundle),
        is_plaintext=any(outcome.transport == "plaintext" for outcome in outcomes),
    )


def describe_count(link: Link) -> str:
    """Say how many connections had a link's verdict, and of how many; ``+``: of at least so many."""
    of_all = f" of {link.connections}" if link.with_verdict < link.connections else ""
    return f"{link.with_verdict}{of_all}{'+' if link.is_lossy else ''}"
