"""A graph as SVG. Pure.

Verdicts are told by the line's shape and by a word, besides the colour: solid for allowed, dashed for what explicit
mode would refuse, dotted with a cross for refused. No style sheet, script or link: every name comes from a
peer and is text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape as escape_xml

from cli.graph.graph import Graph, Link, Node, describe_count
from cli.graph.layout import Place, lay_out
from cli.text.printable import escape

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _EDGE, _HEAD, _LOOP = 190, 34, 170, 26, 24, 64, 90
_MAX_NAME: Final = 27
# Each is legible on white and on dark paper.
_STYLES: Final = {
    "allow": ("#2e7d32", ""),
    "would deny": ("#b26a00", "8 5"),
    "deny": ("#c62828", "2 4"),
}


def draw_svg(graph: Graph) -> str:
    """Draw a graph; the same graph is always the same text."""
    places = lay_out(graph)
    columns = 1 + max((place.column for place in places.values()), default=0)
    rows = 1 + max((place.row for place in places.values()), default=0)
    width = 2 * _EDGE + columns * _WIDTH + (columns - 1) * _GAP_X + _LOOP
    height = _HEAD + _EDGE + rows * (_HEIGHT + _GAP_Y)
    title = f"Edges of {graph.namespace}"
    lines = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {max(width, 620)} {height}" role="img" '
            f'font-family="sans-serif" font-size="12">'
        ),
        f"<title>{_text(title)}</title>",
        f"<desc>{len(graph.nodes)} workloads and addresses, {len(graph.links)} links</desc>",
        f'<rect width="{max(width, 620)}" height="{height}" fill="#ffffff"/>',
        f'<text x="{_EDGE}" y="24" font-size="15" font-weight="bold">{_text(title)}</text>',
        *_draw_legend(),
    ]
    beside: dict[tuple[str, str], int] = {}
    lanes: dict[int, int] = {}
    words = []
    for link in graph.links:
        pair = (link.source, link.destination)
        line, word = _draw_link(link, places, beside.get(pair, 0), lanes)
        lines.append(line)
        words.append(word)
        beside[pair] = beside.get(pair, 0) + 1
    lines += [line for node in graph.nodes for line in _draw_node(node, places[node.name])]
    lines += words
    return "\n".join([*lines, "</svg>", ""])


def _draw_legend() -> list[str]:
    lines = []
    for number, (verdict, (colour, dashes)) in enumerate(_STYLES.items()):
        x = _EDGE + number * 150
        lines.append(f'<path d="M{x} 44h40" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"/>')
        if verdict == "deny":
            lines.append(_draw_cross(x + 20, 44, colour))
        lines.append(f'<text x="{x + 48}" y="48">{verdict}</text>')
    lines.append(f'<text x="{_EDGE + 450}" y="48">dashed box: not proven</text>')
    return lines


def _draw_node(node: Node, place: Place) -> list[str]:
    x, y = _find_corner(place)
    dashes = "" if node.is_proven else ' stroke-dasharray="5 3"'
    fill = "#e3f2fd" if node.is_ours else "#f5f5f5"
    short = node.name if len(node.name) <= _MAX_NAME else f"{node.name[: _MAX_NAME - 1]}…"
    return [
        (
            f"<g><title>{_text(node.name)}{'' if node.is_proven else ' (not proven)'}</title>"
            f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="5" fill="{fill}" stroke="#37474f"{dashes}/>'
            f'<text x="{x + _WIDTH // 2}" y="{y + 21}" text-anchor="middle">{_text(short)}</text></g>'
        )
    ]


def _draw_link(link: Link, places: dict[str, Place], number: int, lanes: dict[int, int]) -> tuple[str, str]:
    """Draw a curve, and its port and verdict, which stand above the boxes; several of a pair beside one another."""
    colour, dashes = _STYLES[link.verdict]
    source, destination = places[link.source], places[link.destination]
    route = _find_route(source, destination, number, lanes)
    services = f" by {', '.join(link.services)}" if link.services else ""
    words = (
        f"{link.source} to {link.destination}, port {link.port}{services}: {link.verdict} ({', '.join(link.reasons)}), "
        f"{describe_count(link)} connections"
        f"{', some in plaintext' if link.is_plaintext else ''}"
    )
    label = f":{link.port}" if link.verdict == "allow" else f":{link.port} {link.verdict}"
    cross = _draw_cross(route.middle_x, route.middle_y, colour) if link.verdict == "deny" else ""
    arrow = f'<path d="M{route.end_x} {route.end_y}l{route.way * 9} -4v8z" fill="{colour}"/>'
    line = (
        f'<g><title>{_text(words)}</title><path d="{route.curve}" fill="none" stroke="{colour}" stroke-width="2" '
        f'stroke-dasharray="{dashes}"/>{arrow}</g>'
    )
    word = (
        f'<g>{cross}<text x="{route.middle_x}" y="{route.middle_y - 6 + 12 * (number % 4)}" text-anchor="middle" '
        f'font-size="10" fill="{colour}" stroke="#ffffff" stroke-width="3" paint-order="stroke">{_text(label)}'
        "</text></g>"
    )
    return line, word


@dataclass(frozen=True, slots=True, kw_only=True)
class _Route:
    """How a link runs: its path, its end with the arrow's way (-1: from the left), and where its words stand."""

    curve: str
    end_x: int
    end_y: int
    way: int
    middle_x: int
    middle_y: int


def _find_route(source: Place, destination: Place, number: int, lanes: dict[int, int]) -> _Route:
    x1, y1 = _find_corner(source)
    x2, y2 = _find_corner(destination)
    shift = 3 * (number % 4)
    if source.column == destination.column:  # Around the right side.
        x1, x2, y1, y2, bend = x1 + _WIDTH, x2 + _WIDTH, y1 + 8, y2 + 24, 50 + 8 * (number % 4)
        curve = f"M{x1} {y1}C{x1 + bend} {y1} {x2 + bend} {y2} {x2} {y2}"
        return _Route(curve=curve, end_x=x2, end_y=y2, way=1, middle_x=x1 + bend * 3 // 4, middle_y=(y1 + y2) // 2)
    is_forward = source.column < destination.column
    y1, y2 = (y1 + 8 + shift, y2 + 8 + shift) if is_forward else (y1 + 22 + shift, y2 + 22 + shift)
    x1, x2 = (x1 + _WIDTH, x2) if is_forward else (x1, x2 + _WIDTH)
    bend = _GAP_X // 2 if is_forward else -_GAP_X // 2
    if abs(source.column - destination.column) == 1:
        curve, middle_x, middle_y = (
            f"M{x1} {y1}C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}",
            (x1 + x2) // 2,
            (y1 + y2) // 2,
        )
    else:
        # Boxes stand between both: the link runs along the space between two rows of them, beside others that do.
        lane = max(1, round((y1 + y2 - 2 * _HEAD) / (2 * (_HEIGHT + _GAP_Y))))
        lanes[lane] = lanes.get(lane, 0) + 1
        middle_y = _HEAD + lane * (_HEIGHT + _GAP_Y) - _GAP_Y // 2 + 3 * (lanes[lane] % 7 - 3)
        first, last = x1 + 2 * bend, x2 - 2 * bend
        curve = (
            f"M{x1} {y1}C{x1 + bend} {y1} {first - bend} {middle_y} {first} {middle_y}H{last}"
            f"C{last + bend} {middle_y} {x2 - bend} {y2} {x2} {y2}"
        )
        middle_x = (first + last) // 2
    return _Route(curve=curve, end_x=x2, end_y=y2, way=-1 if is_forward else 1, middle_x=middle_x, middle_y=middle_y)


def _draw_cross(x: int, y: int, colour: str) -> str:
    return f'<path d="M{x - 5} {y - 5}l10 10m0 -10l-10 10" stroke="{colour}" stroke-width="2.5"/>'


def _find_corner(place: Place) -> tuple[int, int]:
    return _EDGE + place.column * (_WIDTH + _GAP_X), _HEAD + place.row * (_HEIGHT + _GAP_Y)


def _text(words: str) -> str:
    """Write somebody else's words as text: nothing in them is markup, and nothing is invisible."""
    return escape_xml(escape(words), {'"': "&quot;", "'": "&#39;"})
