"""How far a rotation has come, as people are shown it. Reads the store, changes nothing.

Belongs here: the description. Doesn't: the steps (``rotation.py``), or what they wait for (``gates.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

from ca.rotation.gates import ActivationGate
from ca.rotation.sides import find_sides
from ca.store.records import JoinTokenRecord, RotationRecord, RotationStep
from ca.store.store import Store
from shared.model.trust.bundle import RotationKind


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


async def read_status(
    store: Store, rotation: RotationRecord, *, activation: ActivationGate, now: float
) -> RotationStatus:
    """Read how far a rotation has come."""
    sides = find_sides(rotation, await store.authorities.list_all())
    alive = await store.ledger.count_alive(now=now)
    is_prepared = rotation.step is RotationStep.PREPARED
    is_under_way = is_prepared or rotation.step is RotationStep.ACTIVE
    is_root = rotation.kind is RotationKind.ROOT
    laggards = await activation.find_laggards(rotation, now) if is_prepared else []
    tokens = []
    if is_root and is_under_way:
        tokens = await store.join_tokens.list_open(sides.previous_root.public_key_digest, now=now)
    return RotationStatus(
        rotation_id=rotation.rotation_id,
        kind=rotation.kind,
        step=rotation.step,
        issuer=sides.issuer.subject,
        previous=sides.previous.subject,
        root=sides.root.subject,
        previous_root=sides.previous_root.subject,
        waiting_for=tuple(sidecar.instance for sidecar in laggards),
        unpublished=tuple(await activation.list_unpublished(rotation)) if is_under_way else (),
        ready_at=activation.find_ready_at(rotation),
        alive_of_previous=sum(alive.get(r.authority_id, 0) for r in sides.replaced),
        tokens=tuple(tokens),
        sequence=rotation.sequence,
        forced=rotation.forced,
        started=rotation.started,
        changed=rotation.changed,
        is_reversible=is_prepared or (rotation.step is RotationStep.ACTIVE and sides.is_previous_intact),
    )
