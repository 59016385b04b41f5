"""The few SVG shapes that the pictures of ``docs/pictures`` are made of.

Belongs here: shapes as text, with colours for light and dark. Doesn't: what a picture shows. Pure.

A picture is used in an ``<img>``: it can't load fonts or styles, and it doesn't know the page's theme. It therefore
names generic font families only, has a ground of its own, and follows the system by ``prefers-color-scheme``.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

# A class each: (light, dark).
_COLOURS = {
    "ground": ("#ffffff", "#161b22"),
    "panel": ("#f3f5f8", "#1f2630"),
    "card": ("#ffffff", "#2b3440"),
    "edge": ("#b6bfca", "#56616f"),
    "ink": ("#1c2430", "#e6edf3"),
    "faint": ("#5a6675", "#a3afbd"),
    "good": ("#1f7a4d", "#5fd39a"),
    "bad": ("#b3261e", "#ff8a80"),
    "trust": ("#2f5fb3", "#8ab4ff"),
}


def document(*, width: int, height: int, title: str, shapes: Iterable[str]) -> str:
    """Return the whole picture."""
    light, dark = (_styles(which) for which in (0, 1))
    style = (
        f"text {{ font-family: system-ui, sans-serif; }}\n{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}"
    )
    ground = box(0, 0, width, height, fill="ground", edge="ground", round_by=12)
    return enclose(width=width, height=height, title=title, style=style, shapes=[ground, *shapes])


def enclose(*, width: int, height: int, title: str, style: str, shapes: Iterable[str]) -> str:
    """Return a picture of these shapes, with a style of its own."""
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title">'
    named = f'<title id="title">{escape(title)}</title>\n<style>\n{style}\n</style>'
    return "\n".join((head, named, *shapes, "</svg>\n"))


def box(x: int, y: int, width: int, height: int, *, fill: str = "card", edge: str = "edge", round_by: int = 8) -> str:
    """Return a rectangle."""
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="{round_by}" class="fill-{fill} line-{edge}"/>'


def words(x: int, y: int, text: str, *, colour: str = "ink", size: int = 14, anchor: str = "middle") -> str:
    """Return a line of text."""
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" class="fill-{colour}">{escape(text)}</text>'
    )


def arrow(
    start: tuple[int, int], end: tuple[int, int], *, colour: str = "ink", width: int = 2, is_dashed: bool = False
) -> str:
    """Return a straight arrow, its head at the end."""
    (x1, y1), (x2, y2) = start, end
    length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
    along, across = ((x2 - x1) / length, (y2 - y1) / length), ((y1 - y2) / length, (x2 - x1) / length)
    head, half = 6 + 2 * width, 3 + width
    base = (x2 - head * along[0], y2 - head * along[1])
    corners = [(x2, y2), *((base[0] + side * across[0], base[1] + side * across[1]) for side in (half, -half))]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    dashes = ' stroke-dasharray="6 5"' if is_dashed else ""
    return (
        f'<line x1="{x1}" y1="{y1}" x2="{base[0]:.1f}" y2="{base[1]:.1f}" stroke-width="{width}"{dashes}'
        f' class="line-{colour}"/>\n<polygon points="{points}" class="fill-{colour}"/>'
    )


def line(start: tuple[int, int], end: tuple[int, int], *, colour: str = "edge", is_dashed: bool = False) -> str:
    """Return a thin line."""
    dashes = ' stroke-dasharray="4 4"' if is_dashed else ""
    return f'<line x1="{start[0]}" y1="{start[1]}" x2="{end[0]}" y2="{end[1]}"{dashes} class="line-{colour}"/>'


def _styles(which: int) -> str:
    return "\n".join(
        f".fill-{name} {{ fill: {colours[which]}; }} .line-{name} {{ stroke: {colours[which]}; }}"
        for name, colours in _COLOURS.items()
    )
