"""Durations and moments as people write and read them. Reads the clock for moments."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

from shared.model.errors import InputError

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d|w)?")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def parse_duration(text: str, option: str = "") -> float:
    """Read ``90s``, ``30m``, ``24h``, ``7d`` or ``2w`` (a bare number means seconds) as seconds.

    Arguments:
        option: whose value it is, for a refusal; empty: it is said elsewhere.

    Raises:
        InputError: the text has another shape, or is zero.
    """
    match = _DURATION.fullmatch(text.strip())
    if not match or float(match[1]) == 0:
        said = f"{option}: " if option else ""
        raise InputError(f"{said}not a duration: {text[:40]!r}", hint="write a number and a unit, such as 30m or 24h")
    return float(match[1]) * _SECONDS[match[2] or "s"]


def parse_moment(text: str, *, now: float, option: str = "") -> float:
    """Read a day or a time in UTC (``2026-11-28``, ``2026-11-28T14:30``), or how long ago (``90m``, ``7d``).

    Returns:
        Seconds since the epoch.

    Raises:
        InputError: the text has another shape.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return now - parse_duration(text, option)
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def format_moment(text: str, option: str = "") -> str:
    """Return what ``parse_moment`` reads for a query of the admin API; empty where nothing was given."""
    return str(parse_moment(text, now=time.time(), option=option)) if text else ""


def format_duration(seconds: float) -> str:
    """Write seconds in the largest unit that leaves at least one: ``45 s``, ``12 min``, ``3 h``, ``9 d``."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if abs(seconds) >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def format_time(moment_s: float) -> str:
    """Write a moment (seconds since the epoch) in UTC, to the second; ``-`` for 0."""
    return datetime.fromtimestamp(moment_s, tz=UTC).strftime("%Y-%m-%d %H:%M:%SZ") if moment_s else "-"
