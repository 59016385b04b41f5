"""Writes the tables of settings into the reference pages from the settings themselves; `make docs` runs it.

Belongs here: the tables' columns. Doesn't: which settings there are (``sidecar/settings/``, ``ca/settings/``).
Writes the pages of the named folder, only between their markers.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ca.settings.settings import SETTINGS as CA_SETTINGS
from shared.runtime.settings import Setting
from sidecar.settings.settings import SETTINGS as SIDECAR_SETTINGS

BEGIN = "<!-- settings begin -->\n"
END = "<!-- settings end -->\n"
TABLES = {"ca.md": CA_SETTINGS, "sidecar.md": SIDECAR_SETTINGS}


def write_table(settings: Sequence[Setting]) -> str:
    """Return the settings as a Markdown table; a column that would be empty is left out."""
    rows = [_write_row(setting) for setting in settings]
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    lines = [columns, ["---"] * len(columns), *([row[name] for name in columns] for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def fill_page(page: str, settings: Sequence[Setting]) -> str:
    """Return the page with this table between its markers.

    Raises:
        ValueError: a marker is missing.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the page has no markers for its settings")
    note = "<!-- Generated from the settings by `make docs`. Don't edit. -->\n\n"
    return before + begin + note + write_table(settings) + "\n" + end + after


def _write_row(setting: Setting) -> dict[str, str]:
    options = list(setting.options)
    if options and not setting.is_flag:
        options[0] += f" {setting.metavar or '|'.join(setting.choices or ())}"
    more = " (repeatable)" if setting.repeatable and options else ""
    return {
        "Option": ", ".join(_write_code(option) for option in options),
        "File": _write_code(setting.yaml),
        "Environment": _write_code(setting.environment),
        "Default": setting.default,
        "Meaning": setting.help + more,
    }


def _write_code(text: str) -> str:
    escaped = text.strip().replace("|", "\\|")
    return f"`{escaped}`" if escaped else ""


def main(arguments: list[str]) -> int:
    """Write the tables into the named folder's pages."""
    if len(arguments) != 1:
        print("usage: python -m scripts.pages.settings_page FOLDER", file=sys.stderr)
        return 2
    for name, settings in TABLES.items():
        path = Path(arguments[0]) / name
        path.write_text(fill_page(path.read_text(encoding="utf-8"), settings), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
