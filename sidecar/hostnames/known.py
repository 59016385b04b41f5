"""What is remembered of one name: the addresses of its latest answers, and whether it could be asked for. Pure.

Belongs here: how long an address counts. Doesn't: asking (``resolver.py``), when to ask (``host_names.py``).

Programs use an answer for a while, and many names answer with some of their addresses in turn. So an address counts for
``KEPT_S`` after the last answer that had it, for its TTL where that is longer, and where the nameservers have failed
since to say the addresses of its kind, until ``GRACE_S`` after the last time that they did.
"""

from __future__ import annotations

import math
from typing import Final

from sidecar.hostnames.resolver import Resolved

KEPT_S: Final = 300.0
MAX_TTL_S: Final = 3600.0
GRACE_S: Final = 3600.0
MAX_ADDRESSES: Final = 64
_MOST_FAILED: Final = 16


class KnownName:
    """One name's addresses.

    Attributes:
        failures: of the last time that it was asked for, by IP version; empty where all was answered.
        failed_in_a_row: how many times up to the last one there were failures; counted up to ``_MOST_FAILED``.
        found_nothing: the last time all was answered, and there was no address.
    """

    __slots__ = ("_answered_at", "_until", "failed_in_a_row", "failures", "found_nothing")

    def __init__(self) -> None:
        self._until: dict[str, float] = {}  # The one that was answered last is the last one.
        self._answered_at = {4: -math.inf, 6: -math.inf}
        self.failures: dict[int, str] = {}
        self.failed_in_a_row = 0
        self.found_nothing = False

    def take(self, resolved: Resolved, now: float) -> None:
        """Take what was learned at a time, in seconds of any clock that doesn't jump."""
        self.failures = dict(resolved.failures)
        self.failed_in_a_row = min(self.failed_in_a_row + 1, _MOST_FAILED) if self.failures else 0
        self.found_nothing = not self.failures and not resolved.addresses
        until = now + max(KEPT_S, min(float(resolved.ttl_s), MAX_TTL_S))
        for address in resolved.addresses[:MAX_ADDRESSES]:
            self._until.pop(address, None)
            self._until[address] = until
        for version in self._answered_at.keys() - self.failures.keys():
            self._answered_at[version] = now
        self._until = {address: end for address, end in self._until.items() if self._counts(address, end, now)}
        for address in list(self._until)[:-MAX_ADDRESSES]:
            del self._until[address]

    def holds(self, address: str, now: float) -> bool:
        """Return whether an address is one of the name's."""
        end = self._until.get(address)
        return end is not None and self._counts(address, end, now)

    def _counts(self, address: str, end: float, now: float) -> bool:
        version = 6 if ":" in address else 4
        return now < end or (version in self.failures and now < self._answered_at[version] + GRACE_S)
