"""``touchmark version``."""

from __future__ import annotations

from cli.commands import options
from cli.text.output import print_json, print_line
from shared.model.version import VERSION


def version(as_json: options.Json = False) -> None:
    """Print the versions of Touchmark and Python."""
    import platform

    if as_json:
        print_json({"touchmark": VERSION, "python": platform.python_version()})
    else:
        print_line(f"touchmark {VERSION} (Python {platform.python_version()})")
