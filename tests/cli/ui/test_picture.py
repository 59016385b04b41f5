"""What the page shows of edges: the same edges and filters always give the same links and places."""

from __future__ import annotations

import random

import msgspec
import pytest

from cli.graph.graph import MAX_LINKS, MAX_NODES
from cli.ui.picture import HUB_NEIGHBOURS, Show, show_edges
from cli.ui.shapes import ShownEdges
from shared.model.wire.admin_edges import EdgeEnd
from tests.cli.edges import ALLOW, DENY, WOULD_DENY, list_edges, make_edge
from tests.cli.ui.world import DRAFT, EDGES


def workload(number: int) -> EdgeEnd:
    return EdgeEnd(workload=f"shop/w{number:03}")


def pairs(shown: ShownEdges) -> list[tuple[str, str]]:
    return [(link.source, link.destination) for link in shown.links]


def test_what_isnt_settled_comes_first_and_alone() -> None:
    shown = show_edges(list_edges(*EDGES), show=Show.OPEN)
    assert [link.verdict for link in shown.links] == ["deny", "would deny", "would deny", "would deny"]
    assert shown.links[0].source == "shop/cron"
    assert shown.links[0].is_lossy
    assert shown.links[1].source_programs == ("teller efefefefefef",)
    assert len(shown.nodes) == 7, "only ends of what is shown"


@pytest.mark.parametrize(("show", "count"), [(Show.DENIED, 1), (Show.WOULD_DENY, 3), (Show.ALL, 7)])
def test_filters_choose_by_the_strictest_verdict(show: Show, count: int) -> None:
    assert len(show_edges(list_edges(*EDGES), show=show).links) == count


def test_only_one_ends_links_are_shown_when_it_is_chosen() -> None:
    shown = show_edges(list_edges(*EDGES), show=Show.ALL, node="shop/db")
    assert sorted(pairs(shown)) == [("shop/api", "shop/db"), ("shop/cron", "shop/db"), ("shop/web", "shop/db")]


def test_the_order_in_which_edges_come_moves_nothing() -> None:
    edges = [make_edge(workload(n % 17), workload(n % 13 + 20), WOULD_DENY, port=n + 1) for n in range(120)]
    first = show_edges(list_edges(*edges), show=Show.ALL)
    random.Random(7).shuffle(edges)
    again = show_edges(list_edges(*edges), show=Show.ALL)
    assert (first.nodes, first.links, first.drawn) == (again.nodes, again.links, again.drawn)
    places = {(node.column, node.row) for node in first.nodes}
    assert len(places) == len(first.nodes), "no two boxes share a place"


def test_hubs_leave_the_picture_and_stay_in_the_table() -> None:
    hub = EdgeEnd(workload="shop/dns")
    edges = [make_edge(workload(n), hub, DENY) for n in range(HUB_NEIGHBOURS)]
    edges.append(make_edge(workload(0), workload(1), DENY))
    shown = show_edges(list_edges(*edges), show=Show.ALL, hides_hubs=True)
    assert shown.hidden == ("shop/dns",)
    assert len(shown.links) == HUB_NEIGHBOURS + 1
    assert [pairs(shown)[number] for number in shown.drawn] == [("shop/w000", "shop/w001")]
    chosen = show_edges(list_edges(*edges), show=Show.ALL, node="shop/dns", hides_hubs=True)
    assert chosen.hidden == (), "who is asked for is shown"


def test_more_than_a_picture_can_show_is_a_table_alone() -> None:
    edges = [make_edge(workload(n), workload(n + 1), DENY) for n in range(MAX_NODES + 1)]
    shown = show_edges(list_edges(*edges), show=Show.ALL)
    assert (shown.nodes, shown.drawn) == ((), ())
    assert f"at most {MAX_NODES} and {MAX_LINKS}" in shown.undrawn
    assert len(shown.links) == MAX_NODES + 1


def test_the_verdict_stands_beside_the_number_of_its_own_connections_and_of_all() -> None:
    refused = msgspec.structs.replace(DENY, connections=2)
    allowed = msgspec.structs.replace(ALLOW, connections=3)
    edges = list_edges(make_edge(workload(1), workload(2), refused, allowed, connections=5, is_lossy=True))
    [link] = show_edges(edges, show=Show.ALL).links
    assert (link.verdict, link.counted) == ("deny", "2 of 5+")
    [drafted] = show_edges(edges, show=Show.ALL, draft=DRAFT).links
    assert drafted.counted == "5+ in all", "how many of them a draft would refuse isn't known by link"


def test_nothing_seen_is_an_empty_picture() -> None:
    shown = show_edges(list_edges(), show=Show.ALL)
    assert (shown.links, shown.nodes, shown.undrawn) == ((), (), "")


def test_a_line_names_a_few_programs_and_counts_the_rest() -> None:
    edges = [
        make_edge(EdgeEnd(workload="shop/web", program=f"sha256:{n:012x}{'0' * 52}"), workload(1), DENY, port=80)
        for n in range(9)
    ]
    [link] = show_edges(list_edges(*edges), show=Show.ALL).links
    assert len(link.source_programs) == 6
    assert link.source_programs[-1] == "and 4 more"
