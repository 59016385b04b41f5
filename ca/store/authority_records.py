"""Authorities, rotations and their journal in the store. I/O.

Every change is one transaction: phases by compare-and-swap along ``AUTHORITY_TRANSITIONS``, the rotation's step, the
bundle's sequence and the journal entry together. A CA that dies leaves the step before or the one after, never between.
Longer than most, because all of these write the same rows, and none may be written without the others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Row, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.store.audit.audit_log import append_audit
from ca.store.engine.counters import raise_counter, read_counter
from ca.store.engine.database import Database
from ca.store.join_tokens import open_tokens
from ca.store.records import (
    FINISHED_STEPS,
    MAX_LEAF_LIFETIME_S,
    AuthorityKind,
    AuthorityRecord,
    JournalEntry,
    RotationRecord,
    RotationStep,
)
from ca.store.tables import (
    BUNDLE_SEQUENCE,
    RESTORED,
    authorities,
    certificates,
    join_tokens,
    journal,
    rotations,
    settings,
)
from shared.model.errors import ConflictError
from shared.model.trust.bundle import AUTHORITY_TRANSITIONS, AuthorityPhase, RotationKind


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseChange:
    """One authority's step from the phase that it must have to the next.

    Raises:
        ValueError: there is no such transition.
    """

    authority_id: str
    before: AuthorityPhase
    after: AuthorityPhase

    def __post_init__(self) -> None:
        if self.after not in AUTHORITY_TRANSITIONS[self.before]:
            raise ValueError(f"no authority goes from {self.before} to {self.after}")


class Restoration(msgspec.Struct, frozen=True, kw_only=True):
    """A backup that took the store's place; times in seconds since the epoch.

    Attributes:
        taken: when the backup was made: the ledger lacks what was issued between then and ``restored``.
        undone_evictions: whom the store that was replaced had evicted since; until they are evicted again, or
            somebody says that they may stay.
    """

    taken: float
    restored: float
    undone_evictions: tuple[str, ...] = ()

    def is_ledger_short(self, now: float) -> bool:
        """Tell whether a certificate that the ledger lacks may be alive."""
        return now < self.restored + MAX_LEAF_LIFETIME_S


class AuthorityRecords:
    """Which keys sign, which are accepted, and how that came about."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_all(self) -> list[AuthorityRecord]:
        """Return every authority, oldest first."""
        async with self._database.reading() as connection:
            return await read_authorities(connection)

    async def get_restoration(self) -> Restoration | None:
        """Return the last time that a backup took the store's place; None: never."""
        async with self._database.reading() as connection:
            return await read_restoration(connection)

    async def get_sequence(self) -> int:
        """Return the sequence number of the trust bundle; 0 before the first authorities."""
        async with self._database.reading() as connection:
            return await read_counter(connection, BUNDLE_SEQUENCE)

    async def get_rotation(self) -> RotationRecord | None:
        """Return the last rotation, finished or not."""
        async with self._database.reading() as connection:
            return await _read_rotation(connection)

    async def list_journal(
        self, *, limit: int = 100, since: float | None = None, until: float | None = None
    ) -> list[JournalEntry]:
        """Return the last entries, newest first; of the time from ``since`` to ``until`` (seconds since the epoch)."""
        query = select(journal).limit(limit)
        if since is None and until is None:
            query = query.order_by(journal.c.entry_id.desc())
        else:  # By the index that has the times.
            query = query.order_by(journal.c.time.desc(), journal.c.entry_id.desc())
        if since is not None:
            query = query.where(journal.c.time >= since)
        if until is not None:
            query = query.where(journal.c.time <= until)
        async with self._database.reading() as connection:
            rows = await connection.execute(query)
            return [
                JournalEntry(
                    time=row.time,
                    event=row.event,
                    rotation_id=row.rotation_id,
                    authority_id=row.authority_id,
                    detail=row.detail,
                )
                for row in rows
            ]

    async def found(self, root: AuthorityRecord, issuer: AuthorityRecord, *, now: float) -> bool:
        """Store the first root and issuing authority, unless there are some already; return whether it did."""
        async with self._database.writing() as connection:
            await self._raise_sequence(connection)  # Locks the row: replicas that start together come one by one.
            if await connection.scalar(select(func.count()).select_from(authorities)):
                return False
            for record in (root, issuer):
                await connection.execute(insert(authorities).values(**_values(record, sequence=1)))
                await _write_journal(connection, now, "founded", authority_id=record.authority_id)
            for record in (root, issuer):
                await self._audit(connection, "authority.found", record.authority_id, after={"kind": record.kind})
        return True

    async def begin_rotation(
        self,
        issuer: AuthorityRecord,
        *,
        root: AuthorityRecord | None = None,
        previous_id: str,
        forced: bool,
        now: float,
    ) -> RotationRecord:
        """Store a prepared issuing authority, put it into the bundle and begin its rotation.

        Arguments:
            root: the new root that signed it, prepared too; None: it is below a root that is there.

        Raises:
            ConflictError: a rotation is under way, or the previous authority isn't active.
        """
        async with self._database.writing() as connection:
            sequence = await self._raise_sequence(connection)
            last = await _read_rotation(connection)
            if last is not None and last.step not in FINISHED_STEPS:
                raise ConflictError("a rotation is under way", hint="see `touchmark ca status`")
            if await _read_phase(connection, previous_id) is not AuthorityPhase.ACTIVE:
                raise ConflictError("the active authority has changed", hint="repeat")
            for record in (issuer,) if root is None else (root, issuer):
                await connection.execute(insert(authorities).values(**_values(record, sequence=sequence)))
            values = {
                "kind": (RotationKind.ISSUER if root is None else RotationKind.ROOT).value,
                "step": RotationStep.PREPARED.value,
                "issuer_id": issuer.authority_id,
                "previous_id": previous_id,
                "sequence": sequence,
                "forced": forced,
                "started": now,
                "changed": now,
            }
            await connection.execute(insert(rotations).values(**values))
            rotation = await _read_rotation(connection)
            assert rotation is not None
            for record in (issuer,) if root is None else (root, issuer):
                await _write_journal(
                    connection, now, "prepared", rotation_id=rotation.rotation_id, authority_id=record.authority_id
                )
            await self._audit(connection, "rotation.prepare", issuer.authority_id, after=_describe(rotation))
        return rotation

    async def mark_published(self, rotation: RotationRecord, *, now: float) -> None:
        """Note that everything outside the CA that names its roots has the new one from now on; once.

        Raises:
            ConflictError: another step was taken first.
        """
        async with self._database.writing() as connection:
            marked = await connection.execute(
                update(rotations)
                .where(
                    rotations.c.rotation_id == rotation.rotation_id,
                    rotations.c.step == rotation.step.value,
                    rotations.c.published.is_(None),
                )
                .values(published=now)
            )
            if marked.rowcount != 1:
                raise ConflictError("the rotation has taken another step", hint="see `touchmark ca status`")
            await _write_journal(
                connection, now, "published", rotation_id=rotation.rotation_id, authority_id=rotation.issuer_id
            )

    async def change_rotation(
        self,
        rotation: RotationRecord,
        *,
        step: RotationStep,
        phases: Sequence[PhaseChange],
        now: float,
        forced: bool = False,
        detail: str = "",
    ) -> RotationRecord:
        """Take a rotation one step further, together with its authorities.

        Raises:
            ConflictError: another step was taken first, or an authority to retire is still needed.
        """
        async with self._database.writing() as connection:
            changed = await connection.execute(
                update(rotations)
                .where(rotations.c.rotation_id == rotation.rotation_id, rotations.c.step == rotation.step.value)
                .values(step=step.value, changed=now, forced=rotation.forced or forced)
            )
            if changed.rowcount != 1:
                raise ConflictError("the rotation has taken another step", hint="see `touchmark ca status`")
            await self._change_phases(connection, phases, now)
            await _write_journal(
                connection,
                now,
                step.value,
                rotation_id=rotation.rotation_id,
                authority_id=rotation.issuer_id,
                detail=detail,
            )
            record = await _read_rotation(connection)
            assert record is not None
            await self._audit(
                connection,
                f"rotation.{step.value}",
                rotation.issuer_id,
                before=_describe(rotation),
                after=_describe(record) | {"phases": {phase.authority_id: phase.after for phase in phases}},
            )
        return record

    async def reseal(self, sealed: Mapping[str, bytes], *, now: float, detail: str) -> None:
        """Replace sealed keys by the same keys, sealed anew, all at once.

        Arguments:
            sealed: by authority ID.

        Raises:
            ConflictError: an authority has retired since, or another one has come.
        """
        async with self._database.writing() as connection:
            records = await read_authorities(connection)
            if {r.authority_id for r in records if r.sealed_key} != set(sealed):
                raise ConflictError("the authorities have changed meanwhile", hint="repeat")
            for authority_id, key in sealed.items():
                await connection.execute(
                    update(authorities).where(authorities.c.authority_id == authority_id).values(sealed_key=key)
                )
                await _write_journal(connection, now, "resealed", authority_id=authority_id, detail=detail)
            await self._audit(connection, "authorities.reseal", "", after=detail)

    async def change_phases(
        self, phases: Sequence[PhaseChange], *, now: float, event: str, distrusted: Sequence[str] = ()
    ) -> None:
        """Change authorities outside a rotation's steps: taint, or retire.

        Arguments:
            distrusted: IDs of retired authorities whose keys are distrusted as well from now on.

        Raises:
            ConflictError: an authority isn't in the phase it should leave, or to retire and still in use.
        """
        async with self._database.writing() as connection:
            await self._change_phases(connection, phases, now)
            if distrusted:
                if not phases:
                    await self._raise_sequence(connection)  # Else a phase that leaves the bundle has.
                await connection.execute(
                    update(authorities).where(authorities.c.authority_id.in_(distrusted)).values(is_tainted=True)
                )
            for authority_id in (*(phase.authority_id for phase in phases), *distrusted):
                await _write_journal(connection, now, event, authority_id=authority_id)
            for phase in phases:
                await self._audit(
                    connection,
                    f"authority.{event}",
                    phase.authority_id,
                    before={"phase": phase.before},
                    after={"phase": phase.after},
                )
            for authority_id in distrusted:
                retired = AuthorityPhase.RETIRED
                await self._audit(connection, f"authority.{event}", authority_id, after={"phase": retired})

    async def _audit(
        self, connection: AsyncConnection, act: str, subject: str, *, before: object = None, after: object
    ) -> None:
        await append_audit(self._database, connection, act, subject, before=before, after=after)

    async def _change_phases(self, connection: AsyncConnection, phases: Sequence[PhaseChange], now: float) -> None:
        if any(phase.after in (AuthorityPhase.RETIRED, AuthorityPhase.TAINTED) for phase in phases):
            await self._raise_sequence(connection)  # Only these two leave the bundle.
        for phase in phases:
            values: dict[str, Any] = {"phase": phase.after.value}
            if phase.after is AuthorityPhase.RETIRED:
                values["sealed_key"] = b""
            if phase.after is AuthorityPhase.TAINTED:
                values["is_tainted"] = True
            swapped = await connection.execute(
                update(authorities)
                .where(authorities.c.authority_id == phase.authority_id, authorities.c.phase == phase.before.value)
                .values(**values)
            )
            if swapped.rowcount != 1:
                raise ConflictError(f"authority {phase.authority_id} is no longer {phase.before}", hint="look again")
            if phase.after is AuthorityPhase.RETIRED:
                await _check_unneeded(connection, phase, now)

    async def _raise_sequence(self, connection: AsyncConnection) -> int:
        await raise_counter(connection, BUNDLE_SEQUENCE)
        return await read_counter(connection, BUNDLE_SEQUENCE)


async def read_authorities(connection: AsyncConnection) -> list[AuthorityRecord]:
    """Return every authority, oldest first, within a greater transaction."""
    rows = await connection.execute(select(authorities).order_by(authorities.c.created, authorities.c.kind.desc()))
    return [_authority(row) for row in rows]


async def note_restoration(
    database: Database,
    connection: AsyncConnection,
    *,
    taken: float,
    now: float,
    undone_evictions: tuple[str, ...] = (),
) -> None:
    """Note within a greater transaction that a backup of that time takes the store's place."""
    restoration = Restoration(taken=taken, restored=now, undone_evictions=undone_evictions)
    await append_audit(database, connection, "store.restore", "", after=msgspec.to_builtins(restoration))
    await _write_restoration(database, connection, restoration)
    for record in await read_authorities(connection):
        if record.phase is AuthorityPhase.ACTIVE:
            detail = f"backup of {datetime.fromtimestamp(taken, UTC):%Y-%m-%d %H:%M:%SZ}"
            await _write_journal(connection, now, "restored", authority_id=record.authority_id, detail=detail)


async def settle_undone_evictions(database: Database, connection: AsyncConnection, settled: Collection[str]) -> bool:
    """Forget within a greater transaction that a restore has undone these evictions; return whether it had any."""
    restoration = await read_restoration(connection)
    if restoration is None or not (known := set(restoration.undone_evictions).intersection(settled)):
        return False
    left = tuple(each for each in restoration.undone_evictions if each not in known)
    await _write_restoration(database, connection, msgspec.structs.replace(restoration, undone_evictions=left))
    return True


async def _write_restoration(database: Database, connection: AsyncConnection, restoration: Restoration) -> None:
    value = msgspec.json.encode(restoration).decode()
    await connection.execute(database.upsert(settings, {"name": RESTORED, "value": value}))


async def read_restoration(connection: AsyncConnection) -> Restoration | None:
    value = await connection.scalar(select(settings.c.value).where(settings.c.name == RESTORED))
    return None if value is None else msgspec.json.decode(value, type=Restoration)


async def _check_unneeded(connection: AsyncConnection, change: PhaseChange, now: float) -> None:
    """Check that nothing needs an authority that retires. Its row is locked, so that nothing that does is added.

    Raises:
        ConflictError: what it signed is alive, or may be; below a root is an authority; an open join token pins it.
    """
    restoration = await read_restoration(connection)
    if restoration is not None and restoration.is_ledger_short(now):
        raise ConflictError(f"authority {change.authority_id} may have signed what the restored ledger doesn't hold")
    authority_id = change.authority_id
    alive = select(certificates.c.serial).where(
        certificates.c.authority_id == authority_id, certificates.c.not_after > now
    )
    below = select(authorities.c.authority_id).where(
        authorities.c.root_id == authority_id,
        authorities.c.authority_id != authority_id,
        authorities.c.phase != AuthorityPhase.RETIRED.value,
    )
    pin = select(authorities.c.public_key_digest).where(authorities.c.authority_id == authority_id)
    pinning = select(join_tokens.c.token_id).where(open_tokens(now), join_tokens.c.root_pin == pin.scalar_subquery())
    for query, why in (
        (alive, "has signed certificates that are alive"),
        (below, "has authorities below it"),
        # A tainted root is in no bundle: its tokens are lost already.
        *([] if change.before is AuthorityPhase.TAINTED else [(pinning, "is pinned by open join tokens")]),
    ):
        if (await connection.execute(query.limit(1))).first() is not None:
            raise ConflictError(f"authority {authority_id} {why}")


async def _read_phase(connection: AsyncConnection, authority_id: str) -> AuthorityPhase | None:
    phase = await connection.scalar(select(authorities.c.phase).where(authorities.c.authority_id == authority_id))
    return None if phase is None else AuthorityPhase(phase)


async def _read_rotation(connection: AsyncConnection) -> RotationRecord | None:
    row = (await connection.execute(select(rotations).order_by(rotations.c.rotation_id.desc()).limit(1))).first()
    if row is None:
        return None
    return RotationRecord(
        rotation_id=row.rotation_id,
        step=RotationStep(row.step),
        issuer_id=row.issuer_id,
        previous_id=row.previous_id,
        sequence=row.sequence,
        forced=row.forced,
        started=row.started,
        changed=row.changed,
        kind=RotationKind(row.kind),
        published=row.published,
    )


def _describe(rotation: RotationRecord) -> dict[str, Any]:
    return {
        "rotation": rotation.rotation_id,
        "kind": rotation.kind,
        "step": rotation.step,
        "previous": rotation.previous_id,
        "forced": rotation.forced,
    }


async def _write_journal(
    connection: AsyncConnection,
    now: float,
    event: str,
    *,
    authority_id: str,
    rotation_id: int | None = None,
    detail: str = "",
) -> None:
    values = {
        "time": now,
        "event": event,
        "rotation_id": rotation_id,
        "authority_id": authority_id,
        "detail": detail[:1000],
    }
    await connection.execute(insert(journal).values(**values))


def _values(record: AuthorityRecord, *, sequence: int) -> dict[str, Any]:
    return {
        "authority_id": record.authority_id,
        "kind": record.kind.value,
        "phase": record.phase.value,
        "root_id": record.root_id,
        "subject": record.subject,
        "certificate": record.certificate,
        "public_key_digest": record.public_key_digest,
        "sealed_key": record.sealed_key,
        "not_before": record.not_before,
        "not_after": record.not_after,
        "created": record.created,
        "prepared_sequence": sequence,
        "is_tainted": record.is_tainted,
    }


def _authority(row: Row[Any]) -> AuthorityRecord:
    return AuthorityRecord(
        authority_id=row.authority_id,
        kind=AuthorityKind(row.kind),
        phase=AuthorityPhase(row.phase),
        root_id=row.root_id,
        subject=row.subject,
        certificate=row.certificate,
        public_key_digest=row.public_key_digest,
        sealed_key=row.sealed_key,
        not_before=row.not_before,
        not_after=row.not_after,
        created=row.created,
        prepared_sequence=row.prepared_sequence,
        is_tainted=row.is_tainted,
    )
