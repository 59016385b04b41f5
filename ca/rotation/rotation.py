"""Rotation of the issuing authority or of the root: prepare → wait until all know it → activate → retire the old.

Each step is one transaction of the store (phases, step, sequence, journal), so that a CA killed at any instant goes on
where it stood: ``advance`` looks at what is stored, and takes the next step that may be taken. Every step compares and
swaps, so that replicas don't take it twice.

A root brings its own issuing authority: both are prepared, activated and reverted together, and the old root retires
with every issuer below it. Besides what an issuer waits for (each live sidecar, the minimum wait), a root's activation
waits until what names the CA's roots outside of it has the new one and was delivered; its retirement for the open join
tokens that pin it. What a step waits for is in ``gates.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

import structlog

from ca.authority.authorities import Authorities
from ca.authority.founding import make_issuer, make_root
from ca.rotation.due import has_ended, is_due
from ca.rotation.gates import ActivationGate, RetirementGate
from ca.rotation.sides import LEAVING, Sides, find_sides
from ca.rotation.status import RotationStatus, read_status
from ca.store.authority_records import PhaseChange
from ca.store.records import (
    FINISHED_STEPS,
    AuthorityKind,
    AuthorityRecord,
    RotationRecord,
    RotationStep,
)
from ca.store.store import Store
from shared.model.errors import ConflictError, NotFoundError, TouchmarkError
from shared.model.trust.bundle import AuthorityPhase, RotationKind

POLL_S: Final = 2.0
_log = structlog.get_logger(__name__)


class Rotation:
    """Takes the steps, and says what they wait for.

    Arguments:
        activation, retirement: what the steps wait for.
        is_leader: whether this replica takes steps by itself; the others only follow, and do what an operator asks.
    """

    def __init__(
        self,
        store: Store,
        authorities: Authorities,
        *,
        activation: ActivationGate,
        retirement: RetirementGate,
        is_leader: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._authorities = authorities
        self._activation = activation
        self._retirement = retirement
        self._is_leader = is_leader
        self._clock = clock
        self._poked = asyncio.Event()
        self._stepping = asyncio.Lock()

    def poke(self) -> None:
        """Look at once whether the next step can be taken: a sidecar has acknowledged."""
        self._poked.set()

    async def run(self) -> None:
        """Take every step as soon as it may be taken, until cancelled. A failure is logged and tried again."""
        while True:
            try:
                if self._is_leader():
                    await self.advance(self._clock())
                else:
                    await self._authorities.reload()
            except TouchmarkError as error:
                _log.warning("rotation_step_failed", code=error.code, error=error.message)
            try:
                async with asyncio.timeout(POLL_S):
                    await self._poked.wait()
            except TimeoutError:
                pass
            self._poked.clear()

    async def start(
        self, force: bool = False, now: float | None = None, *, kind: RotationKind = RotationKind.ISSUER
    ) -> RotationStatus:
        """Begin a rotation: make an authority and put it into the bundle. With ``force`` activate it at once.

        Forcing a rotation that waits activates it. Sidecars that haven't installed the bundle refuse certificates of
        the new authority until they have. With ``force``, and for a root in any case, the former rotation needn't have
        retired what it replaced: an authority whose key is stolen can't wait for that.

        Raises:
            ConflictError: a rotation is under way; the message names what it waits for.
        """
        moment = self._clock() if now is None else now
        async with self._stepping:
            rotation = await self._store.authorities.get_rotation()
            if rotation is not None and _is_overtaken(rotation, by=kind, force=force):
                rotation = await self._supersede(rotation, moment)
            if rotation is None or rotation.step in FINISHED_STEPS:
                rotation = await self._prepare(kind, force, moment)
            elif rotation.step is RotationStep.ACTIVE:
                raise ConflictError(
                    f"the last rotation (of the {rotation.kind}) hasn't retired what it replaced yet",
                    hint="that happens by itself when nothing needs it any more: see `touchmark ca status`; "
                    f"`touchmark ca rotate {kind} --force` doesn't wait for it",
                )
            elif rotation.kind is not kind:
                raise ConflictError(
                    f"a rotation of the {rotation.kind} is under way",
                    hint=f"`touchmark ca rotate {rotation.kind} --force` activates it, `--revert` takes it back",
                )
            elif not force:
                status = await self._read_status(rotation, moment)
                awaited = [*status.waiting_for, *status.unpublished]
                raise ConflictError(
                    f"a rotation is under way and waits for {', '.join(awaited) or 'its minimum wait'}",
                    hint=f"`touchmark ca rotate {kind} --force` activates it without waiting",
                )
            if force:
                await self._activate(rotation, moment, forced=True)
        await self.advance(moment)
        found = await self.status(moment)
        assert found is not None
        return found

    async def status(self, now: float | None = None) -> RotationStatus | None:
        """Return how far the last rotation has come; None when there was none."""
        moment = self._clock() if now is None else now
        rotation = await self._store.authorities.get_rotation()
        return None if rotation is None else await self._read_status(rotation, moment)

    async def advance(self, now: float | None = None) -> None:
        """Take the steps that may be taken now. Losing a race to a replica is no failure."""
        moment = self._clock() if now is None else now
        async with self._stepping:
            rotation = await self._store.authorities.get_rotation()
            try:
                if await self._replace_ended(rotation, moment):
                    pass
                elif rotation is None or rotation.step in FINISHED_STEPS:
                    await self._retire_leftovers(moment)
                    await self._renew_in_time(rotation, moment)
                else:
                    rotation = await self._note_published(rotation, moment)
                    if rotation.step is RotationStep.ACTIVE:
                        await self._retire_previous(rotation, moment)
                    elif await self._activation.may_activate(rotation, moment):
                        await self._activate(rotation, moment)
            except ConflictError as error:
                _log.info("rotation_step_lost", error=error.message)
            await self._authorities.reload()

    async def replace_ended(self, now: float | None = None) -> None:
        """Replace an active issuer or root that can't sign any more: a CA that was off for too long starts with this.

        Nothing is waited for, since every certificate below it has ended as well. Losing a race to a replica is no
        failure.
        """
        moment = self._clock() if now is None else now
        async with self._stepping:
            try:
                await self._replace_ended(await self._store.authorities.get_rotation(), moment)
            except ConflictError as error:
                _log.info("rotation_step_lost", error=error.message)
            await self._authorities.reload()

    async def revert(self, now: float | None = None) -> RotationStatus:
        """Undo the last step's effect: drop a prepared authority, or let the old one sign again.

        Raises:
            ConflictError: nothing can be reverted: no rotation is under way, or the old authority is tainted.
        """
        moment = self._clock() if now is None else now
        async with self._stepping:
            rotation = await self._store.authorities.get_rotation()
            if rotation is None or rotation.step in FINISHED_STEPS:
                raise ConflictError("no rotation is under way", hint="begin one with `touchmark ca rotate issuer`")
            sides = find_sides(rotation, await self._store.authorities.list_all())
            if rotation.step is RotationStep.PREPARED:
                phases = _change(_new(rotation, sides), AuthorityPhase.PREPARED, AuthorityPhase.RETIRED)
            else:
                phases = [
                    *_change(_new(rotation, sides), AuthorityPhase.ACTIVE, AuthorityPhase.OLD),
                    *_change(_previous(rotation, sides), AuthorityPhase.OLD, AuthorityPhase.ACTIVE),
                ]
            await self._store.authorities.change_rotation(
                rotation, step=RotationStep.REVERTED, phases=phases, now=moment
            )
            _log.info("rotation_reverted", rotation=rotation.rotation_id, from_step=rotation.step)
            await self._authorities.reload()
        status = await self.status(moment)
        assert status is not None
        return status

    async def taint(self, authority_id: str, now: float | None = None) -> None:
        """Distrust an old or retired authority: everything that it signed is refused, and sidecars re-issue at once.

        With a root every issuing authority below it is distrusted, and join tokens that pin it are worth nothing.

        Raises:
            NotFoundError: there is no such authority.
            ConflictError: it isn't old or retired: the active one is rotated away first, by force.
        """
        moment = self._clock() if now is None else now
        async with self._stepping:
            records = await self._store.authorities.list_all()
            record = next((r for r in records if r.authority_id == authority_id), None)
            if record is None:
                raise NotFoundError(f"no authority {authority_id}")
            if record.phase not in (AuthorityPhase.OLD, AuthorityPhase.RETIRED):
                verb = "issuer" if record.kind is AuthorityKind.ISSUING else "root"
                raise ConflictError(
                    f"authority {authority_id} is {record.phase}, and only an old one or a retired one can be tainted",
                    hint=f"first `touchmark ca rotate {verb} --force`",
                )
            meant = [*(r for r in records if r.root_id == authority_id != r.authority_id), record]
            old = [r for r in meant if r.phase is AuthorityPhase.OLD]
            # A connection may outlive its certificate: those of issuers that retired long ago are closed, too.
            retired = [r.authority_id for r in meant if r.phase is AuthorityPhase.RETIRED]
            await self._store.authorities.change_phases(
                _change(old, AuthorityPhase.OLD, AuthorityPhase.TAINTED),
                now=moment,
                event="tainted",
                distrusted=retired,
            )
            _log.warning("authority_tainted", authority=authority_id, kind=record.kind, below=len(meant) - 1)
            await self._authorities.reload()

    async def _replace_ended(self, rotation: RotationRecord | None, now: float) -> bool:
        """Return whether something had ended, and was replaced."""
        if not has_ended(self._authorities.active.record, now):  # An issuer never outlives its root.
            return False
        snapshot = await self._authorities.reload()
        if not has_ended(snapshot.active.record, now):  # A replica was faster.
            return False
        kind = RotationKind.ROOT if has_ended(snapshot.root.record, now) else RotationKind.ISSUER
        _log.warning("authority_ended", kind=kind, authority=snapshot.active.authority_id)
        if rotation is not None and rotation.step not in FINISHED_STEPS:
            sides = find_sides(rotation, await self._store.authorities.list_all())
            if rotation.step is RotationStep.PREPARED and not has_ended(sides.issuer, now):
                await self._activate(rotation, now, forced=True)
                return True
            rotation = await self._supersede(rotation, now)
        await self._activate(await self._prepare(kind, True, now), now, forced=True)
        return True

    async def _supersede(self, rotation: RotationRecord, now: float) -> RotationRecord:
        """End a rotation for the sake of another. What was prepared retires; what was replaced does when it may."""
        phases: list[PhaseChange] = []
        if rotation.step is RotationStep.PREPARED:
            sides = find_sides(rotation, await self._store.authorities.list_all())
            phases = _change(_new(rotation, sides), AuthorityPhase.PREPARED, AuthorityPhase.RETIRED)
        return await self._store.authorities.change_rotation(
            rotation, step=RotationStep.SUPERSEDED, phases=phases, now=now
        )

    async def _prepare(self, kind: RotationKind, forced: bool, now: float) -> RotationRecord:
        snapshot, kek, domain = await self._authorities.reload(), self._authorities.kek, self._store.trust_domain
        root = snapshot.root
        if kind is RotationKind.ROOT:
            root = make_root(domain, kek, phase=AuthorityPhase.PREPARED, now=now)
        issuer = make_issuer(domain, root, kek, phase=AuthorityPhase.PREPARED, now=now)
        rotation = await self._store.authorities.begin_rotation(
            issuer.record,
            root=root.record if kind is RotationKind.ROOT else None,
            previous_id=snapshot.active.authority_id,
            forced=forced,
            now=now,
        )
        _log.info("rotation_prepared", rotation=rotation.rotation_id, kind=kind, authority=issuer.authority_id)
        await self._authorities.reload()
        return rotation

    async def _note_published(self, rotation: RotationRecord, now: float) -> RotationRecord:
        if rotation.kind is not RotationKind.ROOT or rotation.published is not None:
            return rotation
        if await self._activation.list_unpublished(rotation):
            return rotation
        await self._store.authorities.mark_published(rotation, now=now)
        _log.info("rotation_published", rotation=rotation.rotation_id)
        return replace(rotation, published=now)

    async def _activate(self, rotation: RotationRecord, now: float, *, forced: bool = False) -> None:
        sides = find_sides(rotation, await self._store.authorities.list_all())
        awaited = [sidecar.instance for sidecar in await self._activation.find_laggards(rotation, now)]
        awaited += await self._activation.list_unpublished(rotation)
        phases = [
            *_change(_previous(rotation, sides), AuthorityPhase.ACTIVE, AuthorityPhase.OLD),
            *_change(_new(rotation, sides), AuthorityPhase.PREPARED, AuthorityPhase.ACTIVE),
        ]
        detail = f"without {', '.join(awaited)}" if awaited else ""
        await self._store.authorities.change_rotation(
            rotation, step=RotationStep.ACTIVE, phases=phases, now=now, forced=forced, detail=detail
        )
        _log.info("rotation_activated", rotation=rotation.rotation_id, forced=forced, without=awaited)
        await self._authorities.reload()

    async def _retire_previous(self, rotation: RotationRecord, now: float) -> None:
        sides = find_sides(rotation, await self._store.authorities.list_all())
        going = list(sides.replaced)
        if rotation.kind is RotationKind.ROOT:
            going.append(sides.previous_root)
        if not await self._retirement.may_retire(rotation, sides, going, now):
            return
        phases = [PhaseChange(authority_id=r.authority_id, before=r.phase, after=AuthorityPhase.RETIRED) for r in going]
        await self._store.authorities.change_rotation(rotation, step=RotationStep.RETIRED, phases=phases, now=now)
        _log.info("rotation_finished", rotation=rotation.rotation_id)

    async def _retire_leftovers(self, now: float) -> None:
        """Retire what finished rotations left behind, once nothing needs it: an issuer; or a root with all below it.

        A root keeps its issuers as long as it stays: a sidecar that joins by a token that pins it needs one.
        """
        records = [r for r in await self._store.authorities.list_all() if r.phase is not AuthorityPhase.RETIRED]
        leaving_roots = {r.authority_id for r in records if r.kind is AuthorityKind.ROOT and r.phase in LEAVING}
        groups: list[list[AuthorityRecord]] = [
            [r] for r in records if r.root_id not in leaving_roots and r.phase in LEAVING
        ]
        for root_id in leaving_roots:
            below = [r for r in records if r.root_id == root_id]
            groups.append(sorted(below, key=lambda r: r.kind is AuthorityKind.ROOT))
        for group in groups:
            if await self._retirement.are_unneeded(group, now):
                phases = [
                    PhaseChange(authority_id=r.authority_id, before=r.phase, after=AuthorityPhase.RETIRED)
                    for r in group
                ]
                await self._store.authorities.change_phases(phases, now=now, event="retired")

    async def _renew_in_time(self, last: RotationRecord | None, now: float) -> None:
        snapshot = self._authorities.snapshot
        for kind, authority in ((RotationKind.ROOT, snapshot.root), (RotationKind.ISSUER, snapshot.active)):
            if is_due(kind, authority.record, last=last, now=now):
                _log.info("rotation_due", kind=kind, authority=authority.authority_id)
                await self._prepare(kind, False, now)
                return

    async def _read_status(self, rotation: RotationRecord, now: float) -> RotationStatus:
        return await read_status(self._store, rotation, activation=self._activation, now=now)


def _is_overtaken(rotation: RotationRecord, *, by: RotationKind, force: bool) -> bool:
    """Tell whether a rotation may begin although this one hasn't retired what it replaced yet."""
    if rotation.step is not RotationStep.ACTIVE:
        return False
    # All of an issuer's rotation goes with the root.
    return force or (by is RotationKind.ROOT and rotation.kind is RotationKind.ISSUER)


def _new(rotation: RotationRecord, sides: Sides) -> tuple[AuthorityRecord, ...]:
    return (sides.issuer, sides.root) if rotation.kind is RotationKind.ROOT else (sides.issuer,)


def _previous(rotation: RotationRecord, sides: Sides) -> tuple[AuthorityRecord, ...]:
    return (sides.previous, sides.previous_root) if rotation.kind is RotationKind.ROOT else (sides.previous,)


def _change(records: Iterable[AuthorityRecord], before: AuthorityPhase, after: AuthorityPhase) -> list[PhaseChange]:
    return [PhaseChange(authority_id=record.authority_id, before=before, after=after) for record in records]
