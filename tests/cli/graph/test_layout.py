"""Callers stand left of what they call; circles end; the same graph always looks the same."""

from __future__ import annotations

import random
from itertools import pairwise

from cli.graph.graph import make_graph
from cli.graph.layout import MAX_LAYERS, MAX_ROWS, Place, lay_out
from shared.model.wire.admin_edges import EdgeEnd
from tests.cli.edges import make_edge


def place(*pairs: str) -> dict[str, Place]:
    ends = [pair.split(">") for pair in pairs]
    edges = [make_edge(EdgeEnd(workload=source), EdgeEnd(workload=target)) for source, target in ends]
    return lay_out(make_graph("shop", edges, since=0.0, until=1.0))


def test_callers_are_left_of_what_they_call() -> None:
    places = place("a>b", "b>c", "a>c", "d>c")
    assert [places[name].column for name in "abcd"] == [0, 1, 2, 0]


def test_a_circle_is_opened_where_it_is_entered() -> None:
    places = place("z>b", "b>c", "c>b", "c>c")
    assert [places[name].column for name in "zbc"] == [0, 1, 2]
    assert place("a>b", "b>a")["a"].column == 0


def test_no_two_nodes_share_a_place_and_the_order_of_edges_is_nothing() -> None:
    chance = random.Random(1)
    pairs = [f"{chance.randrange(60)}>{chance.randrange(60)}" for _ in range(150)]
    places = place(*pairs)
    assert len({(each.column, each.row) for each in places.values()}) == len(places)
    assert max(each.row for each in places.values()) < MAX_ROWS
    chance.shuffle(pairs)
    assert place(*pairs) == places


def test_neighbours_stand_at_the_same_height() -> None:
    places = place("a>z", "b>y", "c>x")
    assert [places[name].row for name in "abc"] == [places[name].row for name in "zyx"]
    assert place() == {}


def test_a_long_way_is_folded_into_as_many_layers_as_a_picture_shows() -> None:
    chain = [f"n{number:02}" for number in range(40)]
    places = place(*(f"{one}>{other}" for one, other in pairwise(chain)))
    columns = [places[name].column for name in chain]
    assert columns == sorted(columns), "callers still stand left of what they call, or beside it"
    assert columns[-1] == MAX_LAYERS - 1
    assert len(set(places.values())) == len(places)
