"""How much memory the CA may use, and how many connections that haven't joined fit into a part of it. Reads files.

Belongs here: the limit of the container (cgroups(7)) or of the machine. Doesn't: what is done at the limit
(``ca/connections.py``).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

# Within a container these are its own cgroup's; the second is of version 1.
CGROUP_FILES: Final = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
# What a connection takes at most that hasn't joined yet: its handshake 53 KiB, 32 KiB afterwards (measured).
CONNECTION_BYTES: Final = 65_536
# They may take a quarter of the memory.
_SHARE: Final = 4
MIN_PLACES: Final = 512
MAX_PLACES: Final = 16_384


def find_memory_limit(files: tuple[Path, ...] = CGROUP_FILES) -> int:
    """Return in bytes what the cgroup allows, or the machine has."""
    limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for file in files:
        try:
            text = file.read_text().strip()
        except OSError:
            continue
        if text.isdecimal() and int(text) > 0:
            limit = min(limit, int(text))
    return limit


def count_places(memory_bytes: int) -> int:
    """Return how many connections that haven't joined may be open."""
    return max(MIN_PLACES, min(memory_bytes // _SHARE // CONNECTION_BYTES, MAX_PLACES))
