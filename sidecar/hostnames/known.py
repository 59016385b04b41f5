"""What is remembered of one name: the addresses of its latest answers, and whether it could be asked for. Pure.

Belongs here: how long an address counts. Doesn't: asking (``resolver.py``), when to ask (``host_names.py``).

Programs use an answer for a while, and many names answer with some of their addresses in turn. So an address counts for
``KEPT_S`` after the last answer that had it, for its TTL where that is longer, and where the nameservers have failed
since to say the addresses of its kind, until ``GRACE_S`` after the last time that they did.
"""

from __future__ import annotations

import math
from typing import Final

from sidecar.hostnames.resolver import VERSIONS, Resolved

KEPT_S: Final = 300.0
MAX_TTL_S: Final = 3600.0
GRACE_S: Final = 3600.0
MAX_ADDRESSES: Final = 64  # Of each kind.
_MOST_FAILED: Final = 16


def version_of(address: str) -> int:
    """Return an address's IP version."""
    return 6 if ":" in address else 4


class KnownName:
    """One name's addresses, each kind by its own answers.

    Attributes:
        failures: of the last time that each kind was asked for, by IP version; empty where all was answered.
    """

    __slots__ = ("_answered_at", "_failed_in_a_row", "_has_found", "_until", "failures")

    def __init__(self) -> None:
        self._until: dict[str, float] = {}  # The one that was answered last is the last one.
        self._answered_at = dict.fromkeys(VERSIONS, -math.inf)
        self._failed_in_a_row = dict.fromkeys(VERSIONS, 0)
        self._has_found: dict[int, bool | None] = dict.fromkeys(VERSIONS)  # By the last answer; None: it failed.
        self.failures: dict[int, str] = {}

    @property
    def found_nothing(self) -> bool:
        """Tell whether the last time all was answered, and there was no address."""
        return all(has_found is False for has_found in self._has_found.values())

    def was_asked(self, version: int) -> bool:
        """Tell whether a kind was answered once, or has failed."""
        return version in self.failures or self._answered_at[version] > -math.inf

    def count_failures(self, version: int) -> int:
        """Return how many times up to the last one a kind has failed; counted up to ``_MOST_FAILED``."""
        return self._failed_in_a_row[version]

    def take(self, resolved: Resolved, now: float) -> None:
        """Take what was learned of one kind at a time, in seconds of any clock that doesn't jump."""
        version = resolved.version
        if resolved.failure:
            self.failures[version] = resolved.failure
            self._failed_in_a_row[version] = min(self._failed_in_a_row[version] + 1, _MOST_FAILED)
            self._has_found[version] = None
        else:
            self.failures.pop(version, None)
            self._failed_in_a_row[version] = 0
            self._has_found[version] = bool(resolved.addresses)
            self._answered_at[version] = now
        until = now + max(KEPT_S, min(float(resolved.ttl_s), MAX_TTL_S))
        for address in resolved.addresses[:MAX_ADDRESSES]:
            self._until.pop(address, None)
            self._until[address] = until
        self._until = {address: end for address, end in self._until.items() if self._counts(address, end, now)}
        of_this_kind = [address for address in self._until if version_of(address) == version]
        for address in of_this_kind[:-MAX_ADDRESSES]:
            del self._until[address]

    def holds(self, address: str, now: float) -> bool:
        """Return whether an address is one of the name's."""
        end = self._until.get(address)
        return end is not None and self._counts(address, end, now)

    def _counts(self, address: str, end: float, now: float) -> bool:
        version = version_of(address)
        return now < end or (version in self.failures and now < self._answered_at[version] + GRACE_S)
