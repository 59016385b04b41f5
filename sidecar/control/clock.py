"""How far this machine's clock is from the CA's: measured at each welcome, told where certificates fail by it. Pure.

Certificates are valid from two minutes before they are signed, for an hour or so: a clock that is further behind, or
ahead by more than that, makes every one of them useless, and each peer's as well.
"""

from __future__ import annotations

from shared.model.wire.clock_offset import HINT, describe_offset, is_notable
from shared.model.wire.messages import Welcome
from sidecar.events import Events


def measure_offset(welcome: Welcome, *, asked: float, answered: float) -> float | None:
    """Return by how many seconds this machine's clock is ahead of the CA's; None from a CA that doesn't say its time.

    Arguments:
        asked, answered: when the first message was sent and its welcome came, seconds since the epoch. The CA's time
            lies between: the error is at most half of what is between.
    """
    if not welcome.time_ms:
        return None
    return (asked + answered) / 2 - welcome.time_ms / 1000


def tell_offset(offset_s: float | None, events: Events) -> None:
    """Emit an event where the clocks differ notably."""
    if offset_s is not None and is_notable(offset_s):
        message = describe_offset("this machine's", offset_s)
        events.emit("clock_differs", offset_s=round(offset_s, 3), message=message, hint=HINT)
