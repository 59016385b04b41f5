"""CPU time and resident memory of process trees, from the kernel's accounting in ``/proc`` (proc(5)).

Belongs here: reading and parsing ``/proc/PID/stat`` and ``statm``. Doesn't: deciding which processes count
(``processes.py``). The parsers are pure; ``read_usage`` does I/O.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.errors import BenchError

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What processes have used since they started.

    Attributes:
        cpu_us: user and system time of all their threads, µs; the kernel counts in ticks of 10 ms.
        rss_bytes: resident now, pages shared between processes counted once for each (as ``ps`` does).
    """

    cpu_us: float
    rss_bytes: int


def parse_cpu_ticks(stat: str) -> int:
    """Return utime + stime of a ``/proc/PID/stat`` line; a program's name may hold spaces and parentheses.

    Raises:
        ValueError: the text isn't such a line.
    """
    fields = _fields(stat)
    return int(fields[11]) + int(fields[12])


def parse_rss_pages(statm: str) -> int:
    """Return the resident pages of a ``/proc/PID/statm`` line.

    Raises:
        ValueError: the text isn't such a line.
    """
    fields = statm.split()
    if len(fields) < 2:
        raise ValueError(f"not a /proc/PID/statm line: {statm[:60]!r}")
    return int(fields[1])


def parse_parent(stat: str) -> int:
    """Return the parent's PID of a ``/proc/PID/stat`` line.

    Raises:
        ValueError: the text isn't such a line.
    """
    return int(_fields(stat)[1])


def _fields(stat: str) -> list[str]:
    """Return the fields after the name, which may hold anything, a closing parenthesis too."""
    _, closing, rest = stat.rpartition(")")
    fields = rest.split()
    if not closing or len(fields) < 13:
        raise ValueError(f"not a /proc/PID/stat line: {stat[:60]!r}")
    return fields


def family(*pids: int, proc: Path = Path("/proc")) -> list[int]:
    """Return ``pids`` and all their descendants that live now, each once.

    Each process names its parent. ``task/TID/children`` would be less to read, but lies with a thread: those of a
    program with a thread for each connection end while they are read, and the program seemed to have ended then.
    """
    children: dict[int, list[int]] = {}
    for place in proc.iterdir():
        if place.name.isdecimal():
            # Whoever has ended since the directory was listed is nobody's child; ``read_usage`` misses one of ``pids``.
            with contextlib.suppress(OSError):
                parent = parse_parent((place / "stat").read_text(errors="replace"))
                children.setdefault(parent, []).append(int(place.name))
    found: dict[int, None] = {}
    waiting = list(pids)
    while waiting:
        current = waiting.pop()
        if current not in found:
            found[current] = None
            waiting += children.get(current, ())
    return list(found)


def read_usage(pids: Iterable[int]) -> Usage:
    """Return what these processes and their descendants have used.

    Raises:
        BenchError: one of them has ended.
    """
    cpu_ticks = rss_pages = 0
    for pid in family(*pids):
        try:
            cpu_ticks += parse_cpu_ticks(Path(f"/proc/{pid}/stat").read_text(errors="replace"))
            rss_pages += parse_rss_pages(Path(f"/proc/{pid}/statm").read_text())
        except OSError as error:
            raise BenchError(f"process {pid} of the subject has ended during the measurement") from error
    return Usage(cpu_us=cpu_ticks * 1e6 / _TICKS_PER_S, rss_bytes=rss_pages * _PAGE_BYTES)
