"""Says what happens to the sidecar's own output: a fault when it begins and ends, and the lines that are lost.

Belongs here: watching sinks. Doesn't: writing (``shared/runtime/sinks.py``), the records' way to the CA.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from shared.runtime.sinks import LineSink
from sidecar.events import Events

PERIOD_S: Final = 2.0


@dataclass(slots=True, kw_only=True)
class Watched:
    """One sink and what was said of it.

    Attributes:
        name: of the output, in events.
    """

    name: str
    sink: LineSink
    told_lines: int = 0
    told_fault: str = ""


async def watch_output(*watched: Watched, events: Events) -> None:
    """Emit an event for each fault and for lines that were lost, until cancelled."""
    while True:
        for each in watched:
            tell(each, events)
        await asyncio.sleep(PERIOD_S)


def tell(watched: Watched, events: Events) -> None:
    """Emit what is new of one sink. What can't be written itself is said later, with what was lost by then."""
    sink = watched.sink
    if (fault := sink.fault) != watched.told_fault:
        if fault:
            is_told = events.emit("output_failed", output=watched.name, error=fault)
        else:
            is_told = events.emit("output_recovered", output=watched.name)
        if is_told:
            watched.told_fault = fault
    lines = sink.lost_lines
    if lines != watched.told_lines and events.emit(
        "lines_lost", output=watched.name, lines=lines - watched.told_lines, lines_in_all=lines
    ):
        watched.told_lines = lines
