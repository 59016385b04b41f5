"""A lock file's entries as values. Pure.

Belongs here: reading what `make lock` writes: pip's requirements with hashes, uv's ``# via`` comments. Doesn't: what is
made of it (``sbom.py``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_ENTRY = re.compile(r"(?m)^(?P<name>[a-z0-9][a-z0-9._-]*)==(?P<version>[^ ;]+)(?: ; (?P<marker>[^\\\n]+?))? \\$")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})\b")
_VIA = re.compile(r"(?m)^ +# +(?:via +)?([a-z0-9][a-z0-9._-]*)(?: |$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Locked:
    """One package at one version.

    Attributes:
        marker: the environments in which it is installed (PEP 508); empty: all.
        sha256: of each of its files, in hexadecimal.
        wanted_by: names of the packages that need it; a name that isn't in the lock is the project itself.
    """

    name: str
    version: str
    marker: str
    sha256: tuple[str, ...]
    wanted_by: tuple[str, ...]


def read_lock(text: str) -> list[Locked]:
    """Return the lock's entries in their order.

    Raises:
        ValueError: an entry has no hash, or there are none.
    """
    starts = list(_ENTRY.finditer(text))
    if not starts:
        raise ValueError("the lock is empty")
    ends = [match.start() for match in starts[1:]] + [len(text)]
    entries = []
    for match, end in zip(starts, ends, strict=True):
        body = text[match.end() : end]
        hashes = tuple(_HASH.findall(body))
        if not hashes:
            raise ValueError(f"{match['name']} has no hash")
        wanted_by = tuple(name for name in _VIA.findall(body) if name != "via")
        entries.append(
            Locked(
                name=match["name"],
                version=match["version"],
                marker=match["marker"] or "",
                sha256=hashes,
                wanted_by=wanted_by,
            )
        )
    return entries
