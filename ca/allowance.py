"""How many certificates each sidecar may have: a burst, and as many again in each lifetime of a certificate. Pure.

Reports of programs are counted in the same way (``ca/observation/programs_seen.py``).

Belongs here: counting. Doesn't: what is signed (``issuance.py``). A sidecar holds at most 1,024 programs' certificates
and renews each about twice in a lifetime; one that asks for more fills the ledger, and keeps the signer from others.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from shared.model.errors import RefusedError
from shared.model.policy.reasons import Reason

BURST: Final = 4_096
_MAX_SIDECARS: Final = 65_536


class AllowanceUsedError(RefusedError):
    """A sidecar asks for more certificates than it can use: ``overloaded``."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = Reason.OVERLOADED.value


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
        left, since = self._left.get(instance, (float(self._burst), now))
        left = min(self._burst, left + max(0.0, now - since) * self._per_s)
        if left < 1:
            raise AllowanceUsedError(
                f"the sidecar {instance[:100]} has asked for too many certificates",
                hint="`touchmark identities` lists them; `touchmark ca evict` locks a compromised sidecar out",
            )
        self._left[instance] = (left - 1, now)
        self._left.move_to_end(instance)
        if len(self._left) > _MAX_SIDECARS:
            self._left.popitem(last=False)
