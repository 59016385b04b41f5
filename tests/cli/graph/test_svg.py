"""The picture: verdicts by shape and word, names as text only, the same for the same edges."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import msgspec
import pytest

from cli.graph.graph import make_graph
from cli.graph.svg import draw_svg
from shared.model.wire.admin_edges import EdgeEnd, EdgeView
from tests.cli.edges import DB, DENY, WEB, WOULD_DENY, make_edge

HOSTILE = (
    "</text><script>alert(1)</script>",
    "\"' onload='x",
    "<!-- ]]> &lt; &#0;",
    "\x1b[2J\x00\u202e\ud7ff",
    "a" * 2000,
)


def draw(*edges: EdgeView) -> str:
    return draw_svg(make_graph("shop", edges, since=0.0, until=1.0))


def test_each_verdict_has_its_own_line_and_word() -> None:
    text = draw(make_edge(), make_edge(WEB, DB, WOULD_DENY, port=2), make_edge(DB, WEB, DENY, port=3))
    root = ElementTree.fromstring(text)
    words = [each.text or "" for each in root.iter() if each.tag.endswith("text")]
    assert {":5432", ":2 would deny", ":3 deny"} <= set(words)
    assert len(set(re.findall(r'stroke-dasharray="([^"]*)"', text))) >= 3
    titles = [each.text or "" for each in root.iter() if each.tag.endswith("title")]
    assert "shop/web to shop/db, port 5432 by shop/db:5432: allow (allow_rule), 7 connections" in titles


def test_words_stand_above_the_boxes_and_nothing_is_outside() -> None:
    """A line back, or around one box, stays inside the picture; a box hides no verdict."""
    text = draw(make_edge(), make_edge(DB, WEB, DENY), make_edge(DB, DB, WOULD_DENY))
    assert text.rindex(">:5432 deny<") > text.rindex(' rx="5"')
    width = float(re.findall(r'viewBox="0 0 (\d+)', text)[0])
    numbers = [float(each) for path in re.findall(r' d="(M[^"]*C[^"]*)"', text) for each in re.findall(r"\d+", path)]
    assert max(numbers) < width


def test_the_same_edges_are_the_same_picture() -> None:
    edges = [make_edge(), make_edge(DB, WEB), make_edge(WEB, WEB, port=9)]
    assert draw(*edges) == draw(*reversed(edges))


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_what_a_peer_calls_itself_is_text(name: str) -> None:
    text = draw(make_edge(EdgeEnd(identity=name), EdgeEnd(address=name)))
    root = ElementTree.fromstring(text)
    kinds = {each.tag.rpartition("}")[2] for each in root.iter()}
    assert kinds <= {"svg", "title", "desc", "rect", "text", "path", "g"}
    assert not any(key.startswith("on") or "href" in key for each in root.iter() for key in each.attrib)
    assert "\x1b" not in text and "\u202e" not in text


def test_an_empty_graph_is_a_picture_too() -> None:
    assert ElementTree.fromstring(draw()) is not None


def make_end(name: str) -> EdgeEnd:
    return msgspec.structs.replace(WEB, workload=f"shop/{name}")


def test_a_long_link_runs_between_boxes_and_not_behind_them() -> None:
    """Each caller calls the next and the last one: all but the neighbours' links pass columns of boxes, also back."""
    names = [f"s{number}" for number in range(6)]
    pairs = [*pairwise(names), *((name, names[-1]) for name in names[:-2]), (names[0], names[3]), (names[-1], names[0])]
    root = ElementTree.fromstring(draw(*(make_edge(make_end(one), make_end(other)) for one, other in pairs)))
    boxes = [
        [float(each.attrib[key]) for key in ("x", "y", "width", "height")]
        for each in root.iter()
        if each.tag.endswith("rect") and "rx" in each.attrib
    ]
    assert len(boxes) == len(names)
    lanes = [
        [float(number) for number in found.groups()]
        for each in root.iter()
        if (found := re.search(r" (-?\d+) (-?\d+)H(-?\d+)C", each.attrib.get("d", "")))
    ]
    assert len(lanes) == 6
    for first, y, last in lanes:
        for left, top, width, height in boxes:
            is_beside = max(first, last) <= left or left + width <= min(first, last)
            assert is_beside or y < top or top + height < y
