"""The one place that prints: results to standard output, everything else to standard error.

With ``--json`` a command prints exactly one JSON value (or one per line where it follows something) on standard output,
and an error is one JSON object on standard error. ``rich`` is imported on first use: ``--help`` doesn't pay for it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from cli.text.printable import escape
from shared.model.errors import TouchmarkError

MAX_NAMED: Final = 5
_PIPED_WIDTH = 4096  # No row of ours is that wide, so that none is folded.
_MIN_FOLDED: Final = 20  # A cell is folded into no fewer characters: a time has 20, most reasons and names fewer.
_GAP: Final = 2  # Between columns.

if TYPE_CHECKING:
    from rich.console import Console


def print_json(value: object) -> None:
    """Print one value as one line of JSON; ``msgspec`` structs and dataclasses as objects."""
    import msgspec

    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def print_line(text: str = "") -> None:
    """Print one line of the result, or several; what isn't printable in them is shown as its escape."""
    sys.stdout.write(escape(text, keep="\n") + "\n")
    sys.stdout.flush()


def print_note(text: str) -> None:
    """Say something beside the result, on standard error; what isn't printable is shown as its escape."""
    sys.stderr.write(escape(text, keep="\n") + "\n")
    sys.stderr.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """Print rows under their headings, or ``empty`` when there are none. Nothing is cut off.

    On a terminal that is too narrow, columns that say nothing are left out, and long cells are folded. Where that isn't
    enough, lines run on beyond its edge, as those of kubectl do: folded into six letters, no cell can be read.
    """
    from rich.table import Table
    from rich.text import Text

    # By column, each with its heading first.
    cells = [list(column) for column in zip(columns, *([escape(cell) for cell in row] for row in rows), strict=True)]
    if all(len(column) == 1 for column in cells):
        print_line(empty)
        return
    console = make_console()
    if _measure(cells) > console.width:
        cells = [column for column in cells if any(cell not in ("", "-") for cell in column[1:])] or cells
    if _measure(cells, most=_MIN_FOLDED) > console.width:
        console = make_console(width=_PIPED_WIDTH)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading, *rest in cells:
        is_short = _measure([(heading, *rest)]) - _GAP <= _MIN_FOLDED
        table.add_column(heading, overflow="fold", no_wrap=is_short)
    for row in zip(*(column[1:] for column in cells), strict=True):
        table.add_row(*map(Text, row))
    console.print(table)


def _measure(columns: Iterable[Sequence[str]], *, most: int = _PIPED_WIDTH) -> int:
    """Return how wide columns are next to one another, none of them wider than ``most``."""
    from rich.cells import cell_len

    return sum(min(most, max(map(cell_len, column))) + _GAP for column in columns)


def make_console(*, stderr: bool = False, width: int | None = None) -> Console:
    """Make a console, as wide as its terminal; a pipe gets wide lines, so that scripts find whole values."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=width if stream.isatty() else _PIPED_WIDTH, highlight=False)


def print_error(error: TouchmarkError, *, as_json: bool) -> None:
    """Show an error: ``error[code]: message`` and its hint, or the same as a JSON object."""
    if as_json:
        import msgspec

        body: dict[str, Any] = {"code": error.code, "message": error.message, "hint": error.hint}
        print_note(msgspec.json.encode(body).decode())
        return
    print_note(f"error[{error.code}]: {error.message}")
    if error.hint:
        print_note(f"  hint: {error.hint}")


def shorten(program: str) -> str:
    """Shorten ``sha256:<64 hex>[/main:…]`` to its first 12 digits, for tables; an empty text becomes ``-``."""
    if not program:
        return "-"
    digest, _, main = program.removeprefix("sha256:").partition("/main:")
    return f"{digest[:12]}/{main[:12]}" if main else digest[:12]


def name_some(names: Iterable[str], *, most: int = MAX_NAMED) -> str:
    """Join names; of many only the first ones."""
    listed = list(names)
    rest = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + rest


def name_authority(subject: str) -> str:
    """Return the common name of a distinguished name (RFC 4514); what isn't one stays as it is.

    Escaped characters stay escaped: Touchmark's own authorities have none.
    """
    return next((part[3:] for part in subject.split(",") if part.startswith("CN=")), subject)
