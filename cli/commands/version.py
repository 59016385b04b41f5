"""``touchmark version``."""

from __future__ import annotations

from dataclasses import dataclass

from cli.commands import options
from cli.text.json_result import JsonResult, prints
from cli.text.output import print_line
from shared.model.version import VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionView:
    """Versions of this command."""

    touchmark: str
    python: str


_VERSION: JsonResult[VersionView] = JsonResult()


@prints(_VERSION)
def version(as_json: options.Json = False) -> None:
    """Print the versions of Touchmark and Python.

    Examples: touchmark version · touchmark version --json
    """
    import platform

    if as_json:
        _VERSION.print(VersionView(touchmark=VERSION, python=platform.python_version()))
    else:
        print_line(f"touchmark {VERSION} (Python {platform.python_version()})")
