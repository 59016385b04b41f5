"""Draws ``docs/pictures/``: the data path, and the steps of one connection. `make docs` runs it.

Belongs here: what the two pictures show. Doesn't: shapes (``svg.py``), the terminal (``terminal_picture.py``). Writes
into the named folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

from scripts.pages.svg import arrow, box, document, line, words

# The participants of a connection, with the middle of their columns.
_COLUMNS = {"application": 110, "sidecar (source)": 360, "sidecar (destination)": 660, "server": 890}
_A, _O, _I, _S = _COLUMNS
# (from, to, text); to itself: a note.
_STEPS: tuple[tuple[str, str, str], ...] = (
    (_A, _O, "connect, captured"),
    (_O, _O, "attest: socket → process → SHA-256 of its executable"),
    (_O, _O, "identify: the credential of this program"),
    (_O, _O, "decide: workload and port"),
    (_O, _I, "TLS 1.3, ALPN touchmark/2, SNI p5432"),
    (_I, _I, "attest the listener, take its credential"),
    (_I, _O, "certificate: workload + program"),
    (_O, _I, "certificate: workload + program"),
    (_O, _O, "verify the workload, decide the peer's program"),
    (_O, _I, "OPEN address, port, connection id"),
    (_I, _I, "decide by the current policy, programs and bundle"),
    (_I, _S, "connect"),
    (_I, _O, "ACCEPT, or REFUSE with a reason"),
    (_A, _S, "bytes, half-close, reset, back-pressure"),
    (_O, _O, "record"),
    (_I, _I, "record"),
)


def draw_data_path() -> str:
    """Return the picture of the README: two workloads, their sidecars, the CA, and a program that is refused."""
    shapes = [
        box(20, 110, 350, 250, fill="panel"),
        words(40, 132, "workload shop/web", colour="faint", size=13, anchor="start"),
        box(590, 110, 350, 250, fill="panel"),
        words(920, 132, "workload shop/db", colour="faint", size=13, anchor="end"),
        *_program(40, 148, "orders", "sha256:5882…", is_approved=True),
        *_program(40, 248, "intruder", "sha256:94ab…", is_approved=False),
        *_sidecar(230),
        *_sidecar(610),
        *_program(790, 190, "server", "sha256:f1ee…", is_approved=True),
        arrow((170, 175), (228, 210), colour="good"),
        arrow((170, 280), (222, 252), colour="bad"),
        words(40, 342, "refused: program_not_approved", colour="bad", size=12, anchor="start"),
        arrow((350, 230), (608, 230), colour="good", width=5),
        words(480, 205, "mutual TLS 1.3", size=15),
        words(480, 262, "each end proves its workload", colour="faint", size=12),
        words(480, 279, "and its program", colour="faint", size=12),
        arrow((730, 230), (788, 230), colour="good"),
        box(370, 24, 220, 56, edge="trust"),
        words(480, 48, "certificate authority", size=15),
        words(480, 67, "workloads, programs, policy", colour="faint", size=12),
        arrow((370, 62), (292, 158), colour="trust", is_dashed=True),
        arrow((590, 62), (668, 158), colour="trust", is_dashed=True),
        words(480, 100, "short-lived certificates", colour="trust", size=12),
    ]
    title = "Approved programs of two workloads talk mutual TLS through their sidecars; an unapproved one is refused"
    return document(width=960, height=380, title=title, shapes=shapes)


def draw_connection() -> str:
    """Return the picture of the steps of one connection, from top to bottom."""
    bottom = 80 + 34 * len(_STEPS)
    shapes = [line((x, 50), (x, bottom), is_dashed=True) for x in _COLUMNS.values()]
    for name, x in _COLUMNS.items():
        shapes += [box(x - 90, 16, 180, 34), words(x, 38, name)]
    for number, (start, end, text) in enumerate(_STEPS):
        y = 84 + 34 * number
        if start == end:
            x, half = _COLUMNS[start], 4 * len(text) + 8
            shapes += [box(x - half, y - 18, 2 * half, 26, fill="panel"), words(x, y, text, size=13)]
            continue
        left, right = _COLUMNS[start], _COLUMNS[end]
        step = 3 if right > left else -3
        middle = (left + right) // 2
        shapes += [arrow((left + step, y + 4), (right - step, y + 4)), words(middle, y - 3, text, size=13)]
    title = "The steps of one connection between two programs of the mesh, and who takes each"
    return document(width=1000, height=bottom + 16, title=title, shapes=shapes)


PICTURES = {"data-path.svg": draw_data_path, "connection.svg": draw_connection}


def main(arguments: list[str]) -> int:
    """Write the pictures into the named folder."""
    if len(arguments) != 1:
        print("usage: python -m scripts.pages.picture FOLDER", file=sys.stderr)
        return 2
    for name, draw in PICTURES.items():
        (Path(arguments[0]) / name).write_text(draw(), encoding="utf-8")
    return 0


def _program(x: int, y: int, name: str, digest: str, *, is_approved: bool) -> list[str]:
    colour = "good" if is_approved else "bad"
    mark = "✓ approved" if is_approved else "✗ not approved"
    return [
        box(x, y, 130, 70, edge=colour),
        words(x + 65, y + 23, name),
        words(x + 65, y + 42, digest, colour="faint", size=12),
        words(x + 65, y + 60, mark, colour=colour, size=12),
    ]


def _sidecar(x: int) -> list[str]:
    return [
        box(x, 160, 120, 140, edge="trust"),
        words(x + 60, 222, "sidecar"),
        words(x + 60, 244, "attests, decides,", colour="faint", size=12),
        words(x + 60, 260, "records", colour="faint", size=12),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
