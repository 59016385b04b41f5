"""``touchmark version``."""

from __future__ import annotations

from cli import options
from cli.output import print_json, print_line


def version(as_json: options.Json = False) -> None:
    """Print the versions of Touchmark and Python."""
    import platform
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed_version

    try:
        touchmark = installed_version("touchmark")
    except PackageNotFoundError:
        touchmark = "unknown"
    if as_json:
        print_json({"touchmark": touchmark, "python": platform.python_version()})
    else:
        print_line(f"touchmark {touchmark} (Python {platform.python_version()})")
