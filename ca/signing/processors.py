"""How many processors this process may use at once. Reads files.

Belongs here: the machine's, those that its affinity leaves, and the container's share of time (cgroups(7)). Doesn't:
what is done with them (``process.py``).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

# Within a container these are its own cgroup's; the second is of version 1, its period in a file beside it.
QUOTA_FILE: Final = Path("/sys/fs/cgroup/cpu.max")
OLD_QUOTA_FILE: Final = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")


def count_processors(quota_file: Path = QUOTA_FILE, old_quota_file: Path = OLD_QUOTA_FILE) -> float:
    """Return how many processors' time this process may use, which needn't be a whole number."""
    allowed = float(len(os.sched_getaffinity(0)))
    words = _read(quota_file) or _read(old_quota_file) + _read(old_quota_file.with_name("cpu.cfs_period_us"))
    match words:
        case [quota, period] if quota.isdecimal() and period.isdecimal() and int(period) > 0:
            return min(allowed, int(quota) / int(period))
    return allowed  # There is no limit: the quota is "max", -1, or not to be found.


def _read(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
