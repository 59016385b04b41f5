"""The graph's model: one link for each pair, port and strictest verdict; bounded."""

from __future__ import annotations

import msgspec
import pytest

from cli.graph.graph import MAX_NODES, Graph, Link, Node, describe_count, make_graph
from shared.model.errors import InputError
from shared.model.policy.rules import Direction
from shared.model.wire.admin_edges import EdgeEnd, EdgeOutcome, EdgeView
from tests.cli.edges import ALLOW, DB, DENY, WEB, WOULD_DENY, make_edge


def draw(*edges: EdgeView) -> Graph:
    return make_graph("shop", edges, since=0.0, until=1.0)


def test_edges_of_a_pair_and_port_are_one_link_with_the_strictest_verdict() -> None:
    graph = draw(
        make_edge(), make_edge(WEB, DB, WOULD_DENY), make_edge(WEB, DB, DENY, is_lossy=True, is_counted=False),
        make_edge(port=1),
    )  # fmt: skip
    assert graph.nodes == (
        Node(name="shop/db", is_proven=True, is_ours=True), Node(name="shop/web", is_proven=True, is_ours=True),
    )  # fmt: skip
    assert graph.links[1] == Link(
        source="shop/web", destination="shop/db", port=5432, verdict="deny", reasons=("deny_rule",),
        services=("shop/db:5432",), connections=14, with_verdict=7, is_lossy=True, is_plaintext=False,
    )  # fmt: skip
    assert [link.verdict for link in graph.links] == ["allow", "deny"]


def test_the_strictest_verdict_stands_beside_the_number_of_its_own_connections() -> None:
    def of(outcome: EdgeOutcome, connections: int) -> EdgeOutcome:
        return msgspec.structs.replace(outcome, connections=connections)

    taken = msgspec.structs.replace(ALLOW, side=Direction.INGRESS)
    outcomes = (of(DENY, 2), of(WOULD_DENY, 1), of(ALLOW, 2), of(taken, 3))
    link = draw(make_edge(WEB, DB, *outcomes, connections=5)).links[0]
    assert (link.verdict, link.with_verdict, link.connections, describe_count(link)) == ("deny", 2, 5, "2 of 5")
    both = draw(make_edge(WEB, DB, of(ALLOW, 5), of(taken, 5), connections=5, is_lossy=True)).links[0]
    assert describe_count(both) == "5+", "both sides tell of the same connections"


def test_what_is_listed_only_is_not_proven() -> None:
    graph = draw(make_edge(EdgeEnd(listed="bank/api"), EdgeEnd(address="192.0.2.1"), ALLOW))
    assert graph.nodes == (
        Node(name="192.0.2.1", is_proven=False, is_ours=False), Node(name="bank/api", is_proven=False, is_ours=False),
    )  # fmt: skip
    proven = draw(make_edge(EdgeEnd(listed="bank/api")), make_edge(EdgeEnd(workload="bank/api")))
    assert [node.is_proven for node in proven.nodes] == [True, True]


def test_more_than_a_picture_can_show_is_refused_with_what_to_do() -> None:
    many = [make_edge(EdgeEnd(address=f"198.18.{number // 250}.{number % 250}")) for number in range(MAX_NODES)]
    with pytest.raises(InputError, match="301 nodes and 300 links") as caught:
        draw(*many)
    assert "--workload" in (caught.value.hint or "")
