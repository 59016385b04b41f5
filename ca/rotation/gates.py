"""The gates of a rotation: what it waits for before it activates, and before it retires what it replaced.

| Gate | Opens when | ``--force`` |
| --- | --- | --- |
| activation | each live sidecar has acknowledged the bundle, and the minimum wait is over | passes it |
| activation of a root | besides: whatever names the CA's roots has the new one, and it was delivered | passes it |
| either activation | at the latest when what it replaces has lived 5/6 of its life (``due.py``) | passes it |
| retirement | no unexpired certificate of what goes is left; a restored ledger tells that a day later | doesn't |
| retirement of a root | besides: the new root was delivered, and no open join token pins the old one | doesn't |

Belongs here: every condition. Doesn't: the steps (``rotation.py``), or what people are shown (``status.py``). Reads the
store, changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ca.authority.published_roots import PublishedRoots
from ca.rotation.due import must_leave_behind
from ca.rotation.sides import Sides, find_sides
from ca.store.records import AuthorityKind, AuthorityRecord, RotationRecord, SidecarRecord
from ca.store.store import Store
from shared.model.trust.bundle import AuthorityPhase, RotationKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The minimum time that steps wait, in seconds.

    Attributes:
        minimum_s: from prepared to active, for foreign peers, which never acknowledge.
        settling_s: the same for a root: until the other replicas of this CA know it, too, and handshakes are over
            that began before it was installed.
        delivery_s: from the moment when everything outside the CA that names its roots has the new one until its
            readers have seen that: a kubelet shows pods a changed ConfigMap late.
    """

    minimum_s: float
    settling_s: float
    delivery_s: float

    def find_ready_at(self, rotation: RotationRecord) -> float | None:
        """Return the earliest activation, in seconds since the epoch; None while that isn't known."""
        if rotation.kind is RotationKind.ISSUER:
            return rotation.started + self.minimum_s
        if rotation.published is None:
            return None
        return max(rotation.started + max(self.minimum_s, self.settling_s), rotation.published + self.delivery_s)


class ActivationGate:
    """Says whether a prepared rotation may activate, and what it waits for."""

    def __init__(self, store: Store, *, published: PublishedRoots, pace: Pace) -> None:
        self._store = store
        self._published = published
        self._pace = pace

    async def may_activate(self, rotation: RotationRecord, now: float) -> bool:
        """Tell whether everything that the activation waits for has happened, or it can't wait any longer."""
        sides = find_sides(rotation, await self._store.authorities.list_all())
        going = sides.previous_root if rotation.kind is RotationKind.ROOT else sides.previous
        if must_leave_behind(going, now):
            return True
        return self.has_waited(rotation, now) and not await self.find_laggards(rotation, now)

    async def find_laggards(self, rotation: RotationRecord, now: float) -> list[SidecarRecord]:
        """Return the live sidecars that haven't installed the rotation's bundle."""
        live = await self._store.sidecars.list_live(now=now)
        return [sidecar for sidecar in live if sidecar.installed_sequence < rotation.sequence]

    async def list_unpublished(self, rotation: RotationRecord) -> Sequence[str]:
        """Return what outside the CA lacks the new root; nothing once it was seen to be published everywhere."""
        if rotation.kind is not RotationKind.ROOT or rotation.published is not None:
            return ()
        sides = find_sides(rotation, await self._store.authorities.list_all())
        return self._published.list_lacking(sides.root.certificate)

    def find_ready_at(self, rotation: RotationRecord) -> float | None:
        """Return the earliest activation, in seconds since the epoch; None while something is unpublished."""
        return self._pace.find_ready_at(rotation)

    def has_waited(self, rotation: RotationRecord, now: float) -> bool:
        """Tell whether the minimum wait is over and, for a root, whether it was delivered."""
        ready_at = self.find_ready_at(rotation)
        return ready_at is not None and now >= ready_at


class RetirementGate:
    """Says whether authorities that no longer sign may retire.

    What this does *not* guarantee: that nothing is signed in between. The transaction that retires checks it again.
    """

    def __init__(self, store: Store, *, activation: ActivationGate) -> None:
        self._store = store
        self._activation = activation

    async def may_retire(
        self, rotation: RotationRecord, sides: Sides, going: Sequence[AuthorityRecord], now: float
    ) -> bool:
        """Tell whether what an active rotation has replaced may retire."""
        # A sidecar that knows only the old root wouldn't find a certificate below it at the CA. A tainted root is in no
        # bundle: there is nothing to wait for.
        is_root_old = rotation.kind is RotationKind.ROOT and sides.previous_root.phase is AuthorityPhase.OLD
        if is_root_old and not self._activation.has_waited(rotation, now):
            return False
        return await self.are_unneeded(going, now)

    async def are_unneeded(self, authorities: Sequence[AuthorityRecord], now: float) -> bool:
        """Tell whether no unexpired certificate and no open join token needs one of these authorities."""
        restoration = await self._store.authorities.get_restoration()
        if restoration is not None and restoration.is_ledger_short(now):
            return False
        alive = await self._store.ledger.count_alive(now=now)
        for record in authorities:
            if alive.get(record.authority_id):
                return False
            is_pinned = record.kind is AuthorityKind.ROOT and record.phase is AuthorityPhase.OLD
            if is_pinned and await self._store.join_tokens.list_open(record.public_key_digest, now=now):
                return False
        return True
