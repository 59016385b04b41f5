"""How far this replica's clock is from the database's, which is the one clock that all replicas see. I/O: the store.

Replicas say when a certificate begins, when a token or a trial has ended, what is old enough to be forgotten and how
long a rotation has waited. One whose clock is days ahead would forget distrusted serial numbers that still count and
replace an issuer that lives; one that is minutes ahead skips waits, and its certificates begin in the future. So none
starts with such a clock. One whose clock goes astray later does none of what one of several does, isn't ready, opens no
stream and promises nothing that has a time: what it leaves waits for the others, or for its clock. Within
``ca.distribution.replica_sync.BEAT_S`` it may still have issued certificates by that clock.

What this does *not* decide: whose clock is wrong. Where it is the database's no replica issues anything until it is set
right: certificates go on for what is left of their lives. Only for a database that several share; SQLite is this
machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

from ca.metrics import Metrics
from ca.store.replicas import REPLICA_DEAD_S
from ca.store.store import Store
from shared.model.errors import ConflictError, TouchmarkError, UnavailableError

# Certificates are back-dated by 120 s (``ca.store.records.BACKDATED_S``): two replicas on either side still agree.
MAX_OFFSET_S: Final = 60.0
# Of a database that doesn't answer this replica: as long as until the others take it for dead.
SILENCE_S: Final = REPLICA_DEAD_S
_HINT: Final = "set this machine's clock and the database server's, for example by NTP (`chronyc tracking`)"
_log = structlog.get_logger("touchmark.ca")


class DatabaseClock:
    """Compares the clocks at the start and with each sign of life.

    Arguments:
        clock: this replica's, seconds since the epoch.
        monotonic: seconds.
    """

    def __init__(
        self,
        store: Store,
        *,
        metrics: Metrics,
        clock: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._monotonic = monotonic
        self._silent_since: float | None = None
        self.offset_s: float | None = None

    @property
    def is_near(self) -> bool:
        """Whether this replica may do what goes by the time and one of several does; unmeasured, it may."""
        return self.offset_s is None or abs(self.offset_s) <= MAX_OFFSET_S

    @property
    def may_lead(self) -> bool:
        """Whether this replica may lead: its clock is near, and the database answers it, or didn't only lately.

        One that is cut off from the database would keep the Lease from those that aren't, and do nothing with it.
        """
        is_silent = self._silent_since is not None and self._monotonic() - self._silent_since > SILENCE_S
        return self.is_near and not is_silent

    def require_near(self) -> None:
        """Check that others may go by this replica's time: that of certificates, tokens, trials and authorities.

        Raises:
            UnavailableError: its clock is astray.
        """
        if not self.is_near:
            raise UnavailableError(f"{self._describe()}: until they agree it issues nothing", hint=_HINT)

    def read(self) -> float:
        """Return this replica's time, in seconds since the epoch; where its clock is astray, the database's."""
        now = self._clock()
        return now if self.is_near or self.offset_s is None else now - self.offset_s

    async def check(self) -> None:
        """Measure at the start.

        Raises:
            ConflictError: the clocks differ by more than ``MAX_OFFSET_S``.
            UnavailableError: the store fails.
        """
        await self.measure()
        if not self.is_near:
            raise ConflictError(f"{self._describe()}: replicas must agree about the time", hint=_HINT)

    async def measure(self) -> None:
        """Measure, and say when the clocks part or agree again.

        Raises:
            UnavailableError: the store fails.
        """
        was_near, asked = self.is_near, self._monotonic()
        try:
            self.offset_s = await self._store.replicas.measure_offset(clock=self._clock)
        except TouchmarkError:
            if self._silent_since is None:
                self._silent_since = asked
            raise
        self._silent_since = None
        self._metrics.clock_offset.set(self.offset_s)
        if was_near and not self.is_near:
            _log.error("clock_differs", offset_s=round(self.offset_s, 3), message=self._describe(), hint=_HINT)
        elif self.is_near and not was_near:
            _log.info("clock_agrees", offset_s=round(self.offset_s, 3))

    def _describe(self) -> str:
        offset_s = self.offset_s or 0.0
        return f"this CA's clock is {abs(offset_s):.0f} s {'ahead of' if offset_s > 0 else 'behind'} its database's"
