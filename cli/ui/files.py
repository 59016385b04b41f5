"""The files of the page, read once: nothing of a request ever names a file on disk. I/O: reads the package's data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

_TYPES: Final = {
    "html": "text/html",
    "js": "text/javascript",
    "css": "text/css",
    "svg": "image/svg+xml",
}
INDEX: Final = "index.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticFile:
    """One file, and its media type."""

    content: bytes
    media_type: str


def load_files() -> Mapping[str, StaticFile]:
    """Return the page's files by their path in URLs; ``/`` is the page itself."""
    found = dict(_walk("/", files("cli.ui") / "static"))
    return {"/": found[f"/{INDEX}"], **found}


def _walk(path: str, folder: Traversable) -> Iterator[tuple[str, StaticFile]]:
    for each in folder.iterdir():
        ending = each.name.rpartition(".")[2]
        if each.is_dir():
            yield from _walk(f"{path}{each.name}/", each)
        elif ending in _TYPES:
            yield f"{path}{each.name}", StaticFile(content=each.read_bytes(), media_type=_TYPES[ending])
