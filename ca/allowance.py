"""How many certificates each sidecar may have: a burst, and as many again in each lifetime of a certificate. Pure.

Reports of programs and decisions (``ca/observation``) are counted in the same way, so are the streams that a sidecar
opens and the log lines that it causes.

Belongs here: counting. Doesn't: what is signed (``issuance.py``). A sidecar holds at most 1,024 programs' certificates
and renews each about twice in a lifetime; one that asks for more fills the ledger, and keeps the signer from others.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from shared.model.errors import RefusedError
from shared.model.policy.reasons import Reason

BURST: Final = 4_096
# Streams that a sidecar opens: so many at once, then so many a second. One that works tries again after half a second
# at the soonest, and waits longer from time to time (``sidecar/control/feed.py``): it is never refused for this.
STREAMS: Final = 60
STREAMS_PER_S: Final = 2.0
# Log lines of one kind that a sidecar may cause: so many, then one in so many seconds.
_LINES: Final = 60
_LINE_S: Final = 1.0
_MAX_SIDECARS: Final = 65_536


class AllowanceUsedError(RefusedError):
    """A sidecar asks for more certificates than it can use: ``overloaded``."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = Reason.OVERLOADED.value


class StreamsUsedError(AllowanceUsedError):
    """A sidecar opens more streams than one that works."""

    code = "too_many_streams"


class Allowance:
    """A token bucket for each sidecar.

    Arguments:
        lifetime_s: of a certificate: in this time as many more as ``burst`` are allowed.
        burst: None: ``BURST``.
    """

    def __init__(self, lifetime_s: float, *, burst: int | None = None) -> None:
        self._burst = BURST if burst is None else burst
        self._per_s = self._burst / lifetime_s
        # What each has left, and as of when; the one that asked longest ago first.
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, instance: str, *, now: float) -> None:
        """Count one certificate.

        Arguments:
            now: seconds since the epoch.

        Raises:
            AllowanceUsedError: the sidecar has had too many.
        """
        if not self.take_some(instance, 1, now=now):
            raise AllowanceUsedError(
                f"the sidecar {instance[:100]} has asked for too many certificates",
                hint="`touchmark identities` lists them; `touchmark ca evict` locks a compromised sidecar out",
            )

    def take_some(self, instance: str, wanted: int, *, now: float) -> int:
        """Count as many as are allowed of those that are wanted; return how many that are."""
        left, since = self._left.get(instance, (float(self._burst), now))
        if now < since:  # The clock was ahead, and was set back: else nothing would be added until then.
            self._left[instance] = (left, now)
        left = min(self._burst, left + max(0.0, now - since) * self._per_s)
        if not (taken := min(wanted, int(left))):
            return 0
        self._left[instance] = (left - taken, now)
        self._left.move_to_end(instance)
        if len(self._left) > _MAX_SIDECARS:
            self._left.popitem(last=False)
        return taken


class StreamAllowance:
    """How many streams each sidecar may open. Each costs a transaction or more, and all its sidecar's states anew.

    Arguments:
        monotonic: seconds.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._allowance = Allowance(STREAMS / STREAMS_PER_S, burst=STREAMS)

    def take(self, who: str) -> None:
        """Count one stream.

        Arguments:
            who: has proven who it is; nobody else may use up what it has.

        Raises:
            StreamsUsedError: it has opened too many.
        """
        if not self._allowance.take_some(who, 1, now=self._monotonic()):
            raise StreamsUsedError(
                f"this sidecar opens streams too often: more than {STREAMS_PER_S:g} a second",
                hint="does something start it again and again? `touchmark ca evict` locks a compromised one out",
            )


class LineAllowance:
    """How many log lines each sidecar may cause; what is beyond them stands in the metrics alone.

    Arguments:
        monotonic: seconds.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._allowance = Allowance(_LINES * _LINE_S, burst=_LINES)

    def take(self, instance: str) -> bool:
        """Count a line; tell whether it is written."""
        return self._allowance.take_some(instance, 1, now=self._monotonic()) > 0
