"""Which idle tunnel carries the next connection, and which must go.

Belongs here: the decision alone. The pool decides synchronously and *returns* what the caller has to close; it neither
opens nor closes anything. Doesn't: I/O (``connector.py``), the clock (times are arguments). Pure.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from shared.model.identity.identity import Workload
from sidecar.sockets.address import Endpoint

if TYPE_CHECKING:
    from sidecar.tunnel.tunnel import Tunnel


class TunnelKey(msgspec.Struct, frozen=True, kw_only=True):
    """Connections of equal keys may share a tunnel, one after another.

    Attributes:
        identity: the local SPIFFE ID.
        generation: of the local credential.
        destination: the application's address and port.
        workload: whom the directory lists there.
    """

    identity: str
    generation: int
    destination: Endpoint
    workload: Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """Bounds of a pool: idle tunnels in all and for one key, seconds idle, seconds of age."""

    max_idle: int = 512
    max_idle_per_key: int = 64
    idle_s: float = 60.0
    age_s: float = 900.0


class TunnelPool:
    """Idle tunnels by key, the most recently used first."""

    def __init__(self, limits: PoolLimits | None = None) -> None:
        self._limits = limits or PoolLimits()
        # Oldest first within a key; over all keys, ``_order`` holds the least recently used first.
        self._idle: dict[TunnelKey, list[Tunnel]] = {}
        self._order: OrderedDict[Tunnel, tuple[TunnelKey, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._order)

    def take(self, key: TunnelKey, *, now: float, wall: float) -> tuple[Tunnel | None, list[Tunnel]]:
        """Take the best idle tunnel of this key out of the pool.

        Arguments:
            now: the loop's time.
            wall: seconds since the epoch, for the certificates.

        Returns:
            the tunnel or None, and the tunnels that the caller must close.
        """
        unusable: list[Tunnel] = []
        tunnels = self._idle.get(key)
        while tunnels:
            tunnel = tunnels[-1]
            self.discard(tunnel)
            if tunnel.is_reusable and now - tunnel.opened_at < self._limits.age_s and wall < tunnel.not_after:
                return tunnel, unusable
            unusable.append(tunnel)
        return None, unusable

    def give_back(self, key: TunnelKey, tunnel: Tunnel, *, now: float) -> list[Tunnel]:
        """Put a tunnel whose turn has ended into the pool; returns the tunnels that the caller must close."""
        if not tunnel.is_reusable or now - tunnel.opened_at >= self._limits.age_s:
            return [tunnel]
        surplus: list[Tunnel] = []
        tunnels = self._idle.setdefault(key, [])
        tunnels.append(tunnel)
        self._order[tunnel] = (key, now)
        if len(tunnels) > self._limits.max_idle_per_key:
            surplus.append(tunnels[0])
        elif len(self._order) > self._limits.max_idle:
            surplus.append(next(iter(self._order)))
        for each in surplus:
            self.discard(each)
        return surplus

    def discard(self, tunnel: Tunnel) -> None:
        """Forget a tunnel, if it is here: it was lost."""
        entry = self._order.pop(tunnel, None)
        if entry is None:
            return
        key = entry[0]
        tunnels = self._idle[key]
        tunnels.remove(tunnel)
        if not tunnels:
            del self._idle[key]

    def take_out(self, address: str) -> list[Tunnel]:
        """Take out every tunnel to one address: its node has gone; returns them for the caller to close."""
        gone = [tunnel for tunnel, (key, _) in self._order.items() if key.destination[0] == address]
        for tunnel in gone:
            self.discard(tunnel)
        return gone

    def reap(self, *, now: float) -> list[Tunnel]:
        """Take out what was idle for too long; returns the tunnels that the caller must close."""
        reaped: list[Tunnel] = []
        for tunnel, (_, since) in self._order.items():
            if now - since < self._limits.idle_s:
                break
            reaped.append(tunnel)
        for tunnel in reaped:
            self.discard(tunnel)
        return reaped

    def drain(self) -> list[Tunnel]:
        """Take out every tunnel; returns them for the caller to close: trust changed, or this sidecar stops."""
        drained = list(self._order)
        for tunnel in drained:
            self.discard(tunnel)
        return drained
