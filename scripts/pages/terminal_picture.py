"""Draws ``docs/pictures/refusal.svg``: a refusal as it looks in a terminal, from what `touchmark demo` printed.

    touchmark demo --capture listeners | python -m scripts.pages.terminal_picture docs/pictures/refusal.svg

Belongs here: which lines are shown, and how a terminal is drawn. Doesn't: what the commands print. Pure, but for
reading standard input and writing the named file. `make docs` doesn't run it: a run takes half a minute,
and no two print the same times.
"""

from __future__ import annotations

import re
import sys
from html import escape
from pathlib import Path

from scripts.pages.svg import enclose

_COLUMNS = 132
_CELL = (8, 19)
_SIZE = 13
_MARGIN = 18
_BAR = 34
_STYLE = """\
text { font-family: ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace; fill: #d5dbe3; }
.command { fill: #ffffff; font-weight: bold; }
.head { fill: #8b98a8; }
.bad { fill: #ff8a80; }
.good { fill: #7ee2ac; }"""

# A line's class by what it says; the first that matches.
_COLOURS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("command", re.compile(r"^\$ ")),
    ("bad", re.compile(r"^curl: |\bDENY\b")),
    ("head", re.compile(r"^TIME ")),
    ("good", re.compile(r"touchmark program approve|^hello ")),
)


def take_refusal(printed: str) -> list[str]:
    """Return the lines of the demo that show the intruder's refusal: its request, and what `decisions` says of it.

    Raises:
        ValueError: the demo printed no refusal.
    """
    printed = re.sub(r"\x1b\[[0-9;]*m", "", printed)
    intruder = re.search(
        r"(?m)^ *\$ .*?(?:\S*/)intruder (.*)\n((?: {5}.*\n)*) *✓ the modified program was refused", printed
    )
    decisions = re.search(r"(?m)^ *(\$ touchmark decisions --denied.*)\n((?: {5}.*\n)+)", printed)
    if intruder is None or decisions is None:
        raise ValueError("no refusal in what the demo printed")
    answer = [line.strip() for line in intruder[2].splitlines()]
    table = [line[5:].rstrip() for line in decisions[2].splitlines()]
    url = intruder[1].split()[-1]
    return [
        f"$ ./intruder {url}",
        *answer,
        decisions[1],
        *(re.sub(r"# .*/intruder", "# ./intruder", row) for row in table),
    ]


def draw_terminal(lines: list[str], *, title: str) -> str:
    """Return the lines as a terminal: wrapped as one wraps them, on a dark ground in every theme."""
    rows = [(_find_colour(text), part) for text in lines for part in _wrap(text)]
    width = 2 * _MARGIN + _COLUMNS * _CELL[0]
    height = _BAR + len(rows) * _CELL[1] + _MARGIN
    shapes = [
        f'<rect width="{width}" height="{height}" rx="10" fill="#161b22" stroke="#56616f"/>',
        *(f'<circle cx="{_MARGIN + 4 + 18 * place}" cy="18" r="5" fill="#56616f"/>' for place in range(3)),
    ]
    for number, (colour, text) in enumerate(rows):
        # textLength keeps the columns of a table in line, whichever font is there.
        shapes.append(
            f'<text x="{_MARGIN}" y="{_BAR + 14 + number * _CELL[1]}" font-size="{_SIZE}" class="{colour}"'
            f' xml:space="preserve" textLength="{len(text) * _CELL[0]}" lengthAdjust="spacingAndGlyphs">'
            f"{escape(text)}</text>"
        )
    return enclose(width=width, height=height, title=title, style=_STYLE, shapes=shapes)


def _find_colour(text: str) -> str:
    return next((colour for colour, pattern in _COLOURS if pattern.search(text)), "plain")


def _wrap(text: str) -> list[str]:
    return [text[start : start + _COLUMNS] for start in range(0, max(len(text), 1), _COLUMNS)]


def main(arguments: list[str]) -> int:
    """Read what the demo printed from standard input, and write the picture to the named file."""
    if len(arguments) != 1:
        print("usage: touchmark demo | python -m scripts.pages.terminal_picture FILE", file=sys.stderr)
        return 2
    lines = take_refusal(sys.stdin.read())
    Path(arguments[0]).write_text(
        draw_terminal(lines, title="A modified curl is refused, and touchmark decisions says why"), encoding="utf-8"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
