"""How far a rotation has come and what it waits for. Reads the store, changes nothing.

Belongs here: what the steps ask before they are taken, and what people are shown of it. Doesn't: the steps
(``ca/rotation/rotation.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ca.store.records import (
    AuthorityRecord,
    JoinTokenRecord,
    RotationRecord,
    RotationStep,
    SidecarRecord,
)
from ca.store.store import Store
from shared.model.trust.bundle import AuthorityPhase, RotationKind

LEAVING = (AuthorityPhase.OLD, AuthorityPhase.TAINTED)


@dataclass(slots=True, kw_only=True)
class Pace:
    """How long steps wait at least, in seconds.

    Attributes:
        minimum_s: from prepared to active, for the sake of foreign peers, which never acknowledge.
        settling_s: the same for a root: until the other replicas of this CA know it, too, and handshakes are over
            that began before it was installed.
        delivery_s: from the moment when everything outside the CA that names its roots has the new one until whoever
            reads it there has seen that: a kubelet shows pods a changed ConfigMap late.
    """

    minimum_s: float = 0.0
    settling_s: float = 0.0
    delivery_s: float = 0.0

    def find_ready_at(self, rotation: RotationRecord) -> float | None:
        """Return the earliest activation, in seconds since the epoch; None while that isn't known."""
        if rotation.kind is RotationKind.ISSUER:
            return rotation.started + self.minimum_s
        if rotation.published is None:
            return None
        return max(rotation.started + max(self.minimum_s, self.settling_s), rotation.published + self.delivery_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """The authorities of a rotation.

    Attributes:
        issuer, root: the new issuing authority and its root.
        previous, previous_root: those that sign before it. The roots are one and the same where the issuer is rotated.
        replaced: the issuing authorities that go: the previous one; with a root all that are left below it.
    """

    issuer: AuthorityRecord
    root: AuthorityRecord
    previous: AuthorityRecord
    previous_root: AuthorityRecord
    replaced: tuple[AuthorityRecord, ...]

    @property
    def is_previous_intact(self) -> bool:
        """Whether what was replaced could sign again."""
        roots = () if self.root == self.previous_root else (self.previous_root,)
        return all(r.phase is AuthorityPhase.OLD for r in (self.previous, *roots))


def find_sides(rotation: RotationRecord, records: Iterable[AuthorityRecord]) -> Sides:
    """Find a rotation's authorities among all."""
    known = {record.authority_id: record for record in records}
    issuer, previous = known[rotation.issuer_id], known[rotation.previous_id]
    replaced: tuple[AuthorityRecord, ...] = (previous,)
    if rotation.kind is RotationKind.ROOT:
        root_id = previous.root_id
        replaced = tuple(
            r
            for r in known.values()
            if r.root_id == root_id != r.authority_id and r.phase is not AuthorityPhase.RETIRED
        )
    return Sides(
        issuer=issuer,
        root=known[issuer.root_id],
        previous=previous,
        previous_root=known[previous.root_id],
        replaced=replaced,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationStatus:
    """How far the last rotation has come.

    Attributes:
        issuer, previous: subjects of the new issuing authority and of the one that it replaces.
        root, previous_root: subjects of their roots; one and the same unless the root is rotated.
        waiting_for: live sidecars that haven't installed the bundle yet, by instance; only while prepared.
        unpublished: what outside the CA hasn't the new root yet; only of a root's rotation, until all of it has.
        ready_at: the earliest activation; None while something is unpublished.
        alive_of_previous: unexpired certificates that what is replaced has signed; it is retired at none.
        tokens: open join tokens that pin the root that is replaced; it is retired when there is none.
        is_reversible: whether ``revert`` can be used now.
    """

    rotation_id: int
    kind: RotationKind
    step: RotationStep
    issuer: str
    previous: str
    root: str
    previous_root: str
    waiting_for: tuple[str, ...]
    unpublished: tuple[str, ...]
    ready_at: float | None
    alive_of_previous: int
    tokens: tuple[JoinTokenRecord, ...]
    sequence: int
    forced: bool
    started: float
    changed: float
    is_reversible: bool


async def find_laggards(store: Store, rotation: RotationRecord, now: float) -> list[SidecarRecord]:
    """Return the live sidecars that haven't installed the rotation's bundle."""
    live = await store.list_live_sidecars(now=now)
    return [sidecar for sidecar in live if sidecar.installed_sequence < rotation.sequence]


async def read_status(
    store: Store, rotation: RotationRecord, *, pace: Pace, unpublished: Sequence[str], now: float
) -> RotationStatus:
    """Read how far a rotation has come.

    Arguments:
        unpublished: what outside the CA hasn't the new root yet.
    """
    sides = find_sides(rotation, await store.list_authorities())
    alive = await store.count_alive(now=now)
    is_prepared = rotation.step is RotationStep.PREPARED
    is_under_way = is_prepared or rotation.step is RotationStep.ACTIVE
    is_root = rotation.kind is RotationKind.ROOT
    tokens = []
    if is_root and is_under_way:
        tokens = await store.list_open_tokens(sides.previous_root.public_key_digest, now=now)
    return RotationStatus(
        rotation_id=rotation.rotation_id,
        kind=rotation.kind,
        step=rotation.step,
        issuer=sides.issuer.subject,
        previous=sides.previous.subject,
        root=sides.root.subject,
        previous_root=sides.previous_root.subject,
        waiting_for=tuple(s.instance for s in await find_laggards(store, rotation, now)) if is_prepared else (),
        unpublished=tuple(unpublished) if is_root and is_under_way and rotation.published is None else (),
        ready_at=pace.find_ready_at(rotation),
        alive_of_previous=sum(alive.get(r.authority_id, 0) for r in sides.replaced),
        tokens=tuple(tokens),
        sequence=rotation.sequence,
        forced=rotation.forced,
        started=rotation.started,
        changed=rotation.changed,
        is_reversible=is_prepared or (rotation.step is RotationStep.ACTIVE and sides.is_previous_intact),
    )
