"""Rotation of the issuing authority: prepare → wait until every live sidecar installed it → activate → retire the old.

Each step is one transaction of the store (phases, step, sequence, journal), so that a CA killed at any instant goes on
where it stood: ``advance`` looks at what is stored, and takes the next step that may be taken. Every step compares and
swaps, so that replicas don't take it twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from ca.authority.authorities import Authorities
from ca.authority.founding import make_issuer
from ca.store.authority_table import PhaseChange
from ca.store.records import (
    FINISHED_STEPS,
    AuthorityKind,
    AuthorityRecord,
    RotationRecord,
    RotationStep,
    SidecarRecord,
)
from ca.store.store import Store
from shared.model.errors import ConflictError, NotFoundError, TouchmarkError
from shared.model.trust import AuthorityPhase

POLL_S: Final = 2.0
RENEWED_AT_SHARE: Final = 2 / 3  # Of the active authority's life: then a rotation begins by itself.
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationStatus:
    """How far the last rotation has come.

    Attributes:
        issuer, previous: subjects of the new authority and of the one that it replaces.
        waiting_for: live sidecars that haven't installed the bundle yet, by instance; only while prepared.
        ready_at: the earliest activation, for the sake of foreign peers, which never acknowledge.
        alive_of_previous: unexpired certificates that the previous authority signed; it is retired at none.
        is_reversible: whether ``revert`` can be used now.
    """

    rotation_id: int
    step: RotationStep
    issuer: str
    previous: str
    waiting_for: tuple[str, ...]
    ready_at: float
    alive_of_previous: int
    sequence: int
    forced: bool
    started: float
    is_reversible: bool


class Rotation:
    """Takes the steps, and says what they wait for."""

    def __init__(
        self,
        store: Store,
        authorities: Authorities,
        *,
        on_change: Callable[[], None] | None = None,
        min_wait_s: float = 0.0,
        is_leader: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.authorities = authorities
        self.min_wait_s = min_wait_s
        self.is_leader = is_leader  # Others only look: what an operator asks of them they do nevertheless.
        self._on_change = on_change
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
                if self.is_leader():
                    await self.advance(self._clock())
                else:
                    await self._reload()
            except TouchmarkError as error:
                _log.warning("rotation_step_failed", code=error.code, error=error.message)
            try:
                async with asyncio.timeout(POLL_S):
                    await self._poked.wait()
            except TimeoutError:
                pass
            self._poked.clear()

    async def start(self, force: bool = False, now: float | None = None) -> RotationStatus:
        """Begin a rotation: make an authority and put it into the bundle. With ``force`` activate it at once.

        Forcing a rotation that waits activates it. Sidecars that haven't installed the bundle refuse certificates of
        the new authority until they have.

        Raises:
            ConflictError: a rotation is under way; the message names what it waits for.
        """
        moment = self._clock() if now is None else now
        async with self._stepping:
            rotation = await self.store.get_rotation()
            if rotation is None or rotation.step in FINISHED_STEPS:
                rotation = await self._prepare(force, moment)
            elif rotation.step is RotationStep.ACTIVE:
                raise ConflictError(
                    "the last rotation hasn't retired its old authority yet",
                    hint="that happens by itself when nothing that it signed is alive: see `touchmark ca status`",
                )
            elif not force:
                laggards = [sidecar.instance for sidecar in await self._find_laggards(rotation, moment)]
                raise ConflictError(
                    f"a rotation is under way and waits for {', '.join(laggards) or 'its minimum wait'}",
                    hint="`touchmark ca rotate issuer --force` activates it without waiting",
                )
            if force:
                await self._activate(rotation, moment, forced=True)
        await self.advance(moment)
        status = await self.status(moment)
        assert status is not None
        return status

    async def status(self, now: float | None = None) -> RotationStatus | None:
        """Return how far the last rotation has come; None when there was none."""
        moment = self._clock() if now is None else now
        rotation = await self.store.get_rotation()
        if rotation is None:
            return None
        known = {record.authority_id: record for record in await self.store.list_authorities()}
        previous = known[rotation.previous_id]
        waiting = await self._find_laggards(rotation, moment) if rotation.step is RotationStep.PREPARED else []
        alive = await self.store.count_alive(now=moment)
        return RotationStatus(
            rotation_id=rotation.rotation_id,
            step=rotation.step,
            issuer=known[rotation.issuer_id].subject,
            previous=previous.subject,
            waiting_for=tuple(sidecar.instance for sidecar in waiting),
            ready_at=rotation.started + self.min_wait_s,
            alive_of_previous=alive.get(rotation.previous_id, 0),
            sequence=rotation.sequence,
            forced=rotation.forced,
            started=rotation.started,
            is_reversible=rotation.step is RotationStep.PREPARED
            or (rotation.step is RotationStep.ACTIVE and previous.phase is AuthorityPhase.OLD),
        )

    async def advance(self, now: float | None = None) -> None:
        """Take the steps that may be taken now. Losing a race to a replica is no failure."""
        moment = self._clock() if now is None else now
        async with self._stepping:
            rotation = await self.store.get_rotation()
            try:
                if rotation is not None and rotation.step is RotationStep.PREPARED:
                    is_due = moment >= rotation.started + self.min_wait_s
                    if is_due and not await self._find_laggards(rotation, moment):
                        await self._activate(rotation, moment)
                elif rotation is not None and rotation.step is RotationStep.ACTIVE:
                    await self._retire_previous(rotation, moment)
                else:
                    await self._retire_leftovers(moment)
                    await self._renew_in_time(moment)
            except ConflictError as error:
                _log.info("rotation_step_lost", error=error.message)
            await self._reload()

    async def revert(self, now: float | None = None) -> RotationStatus:
        """Undo the last step's effect: drop a prepared authority, or let the old one sign again.

        Raises:
            ConflictError: nothing can be reverted: no rotation is under way, or the old authority is tainted.
        """
        moment = self._clock() if now is None else now
        async with self._stepping:
            rotation = await self.store.get_rotation()
            if rotation is None or rotation.step in FINISHED_STEPS:
                raise ConflictError("no rotation is under way", hint="begin one with `touchmark ca rotate issuer`")
            if rotation.step is RotationStep.PREPARED:
                phases = [
                    PhaseChange(
                        authority_id=rotation.issuer_id, before=AuthorityPhase.PREPARED, after=AuthorityPhase.RETIRED
                    )
                ]
            else:
                phases = [
                    PhaseChange(
                        authority_id=rotation.issuer_id, before=AuthorityPhase.ACTIVE, after=AuthorityPhase.OLD
                    ),
                    PhaseChange(
                        authority_id=rotation.previous_id, before=AuthorityPhase.OLD, after=AuthorityPhase.ACTIVE
                    ),
                ]
            await self.store.change_rotation(rotation, step=RotationStep.REVERTED, phases=phases, now=moment)
            _log.info("rotation_reverted", rotation=rotation.rotation_id, from_step=rotation.step)
            await self._reload()
        status = await self.status(moment)
        assert status is not None
        return status

    async def taint(self, authority_id: str, now: float | None = None) -> None:
        """Distrust an old authority: everything that it signed is refused, and sidecars re-issue at once.

        Raises:
            NotFoundError: there is no such issuing authority.
            ConflictError: it isn't old: the active one is rotated away first, by force.
        """
        moment = self._clock() if now is None else now
        async with self._stepping:
            record = next((r for r in await self._issuers() if r.authority_id == authority_id), None)
            if record is None:
                raise NotFoundError(f"no issuing authority {authority_id}")
            if record.phase is not AuthorityPhase.OLD:
                raise ConflictError(
                    f"authority {authority_id} is {record.phase}, and only an old one can be tainted",
                    hint="first `touchmark ca rotate issuer --force`",
                )
            change = PhaseChange(authority_id=authority_id, before=AuthorityPhase.OLD, after=AuthorityPhase.TAINTED)
            await self.store.change_phases([change], now=moment, event="tainted")
            _log.warning("authority_tainted", authority=authority_id)
            await self._reload()

    async def _prepare(self, forced: bool, now: float) -> RotationRecord:
        snapshot = await self.authorities.reload()
        issuer = make_issuer(
            self.store.trust_domain, snapshot.root, self.authorities.kek, phase=AuthorityPhase.PREPARED, now=now
        )
        rotation = await self.store.begin_rotation(
            issuer.record, previous_id=snapshot.active.authority_id, forced=forced, now=now
        )
        _log.info("rotation_prepared", rotation=rotation.rotation_id, authority=issuer.authority_id)
        await self._reload()
        return rotation

    async def _activate(self, rotation: RotationRecord, now: float, *, forced: bool = False) -> None:
        laggards = [sidecar.instance for sidecar in await self._find_laggards(rotation, now)]
        phases = [
            PhaseChange(authority_id=rotation.previous_id, before=AuthorityPhase.ACTIVE, after=AuthorityPhase.OLD),
            PhaseChange(authority_id=rotation.issuer_id, before=AuthorityPhase.PREPARED, after=AuthorityPhase.ACTIVE),
        ]
        detail = f"without {', '.join(laggards)}" if laggards else ""
        await self.store.change_rotation(
            rotation, step=RotationStep.ACTIVE, phases=phases, now=now, forced=forced, detail=detail
        )
        _log.info("rotation_activated", rotation=rotation.rotation_id, forced=forced, laggards=laggards)
        await self._reload()

    async def _retire_previous(self, rotation: RotationRecord, now: float) -> None:
        # The store counts again in the transaction that retires: this look only spares it the attempt.
        if (await self.store.count_alive(now=now)).get(rotation.previous_id):
            return
        previous = next(r for r in await self._issuers() if r.authority_id == rotation.previous_id)
        change = PhaseChange(authority_id=rotation.previous_id, before=previous.phase, after=AuthorityPhase.RETIRED)
        await self.store.change_rotation(rotation, step=RotationStep.RETIRED, phases=[change], now=now)
        _log.info("rotation_finished", rotation=rotation.rotation_id)

    async def _retire_leftovers(self, now: float) -> None:
        """Retire what a reverted rotation left behind, once nothing that it signed is alive."""
        leftovers = [r for r in await self._issuers() if r.phase in (AuthorityPhase.OLD, AuthorityPhase.TAINTED)]
        if not leftovers:
            return
        alive = await self.store.count_alive(now=now)
        for record in leftovers:
            if not alive.get(record.authority_id):
                change = PhaseChange(
                    authority_id=record.authority_id, before=record.phase, after=AuthorityPhase.RETIRED
                )
                await self.store.change_phases([change], now=now, event="retired")

    async def _renew_in_time(self, now: float) -> None:
        active = self.authorities.active.record
        if now >= active.not_before + (active.not_after - active.not_before) * RENEWED_AT_SHARE:
            _log.info("rotation_due", authority=active.authority_id)
            await self._prepare(False, now)

    async def _find_laggards(self, rotation: RotationRecord, now: float) -> list[SidecarRecord]:
        live = await self.store.list_live_sidecars(now=now)
        return [sidecar for sidecar in live if sidecar.installed_sequence < rotation.sequence]

    async def _issuers(self) -> list[AuthorityRecord]:
        return [r for r in await self.store.list_authorities() if r.kind is AuthorityKind.ISSUING]

    async def _reload(self) -> None:
        before = self.authorities.snapshot
        after = await self.authorities.reload()
        if after is not before and self._on_change is not None:
            self._on_change()
