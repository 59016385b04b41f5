"""Which addresses couldn't be dialled lately, so that not every connection waits for them again.

Belongs here: what is remembered, for how long, and its bound. Doesn't: dialling, the clock (times are arguments). Pure.
"""

from __future__ import annotations

from collections import OrderedDict

from sidecar.sockets.address import Endpoint

MAX_REMEMBERED = 1024


class DialFailures:
    """Failed dials by address: a sidecar's at its tunnel port, a Service's endpoint, or a Service as a whole.

    Arguments:
        memory_s: how long a failure is remembered.
    """

    def __init__(self, *, memory_s: float = 5.0) -> None:
        self._memory_s = memory_s
        self._until: OrderedDict[Endpoint, float] = OrderedDict()  # Oldest first.

    def __len__(self) -> int:
        return len(self._until)

    def note(self, address: Endpoint, *, now: float) -> None:
        """Remember that dialling the address has failed; ``now`` is the loop's time, as everywhere here."""
        self._until.pop(address, None)
        self._until[address] = now + self._memory_s
        if len(self._until) > MAX_REMEMBERED:
            self._until.popitem(last=False)

    def is_recent(self, address: Endpoint, *, now: float) -> bool:
        """Tell whether dialling the address failed within the memory."""
        until = self._until.get(address)
        return until is not None and now < until

    def forget(self, address: Endpoint) -> None:
        """The address answers again."""
        self._until.pop(address, None)

    def reap(self, *, now: float) -> None:
        """Drop what is too old to count."""
        while self._until and next(iter(self._until.values())) <= now:
            self._until.popitem(last=False)
