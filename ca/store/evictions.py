"""Evicts sidecars: their certificates are distrusted until they end, and they can't come back with them. I/O.

Belongs here: one transaction that leaves no certificate out, and what lets a sidecar in again. Doesn't: ending streams
(``ca/api/admin/sidecars.py``), or telling the sidecars (the trust bundle does).

A pod's sidecar never comes back: its token would let it in at once, so the pod has to be replaced. Another one needs a
join token that was made after the eviction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, and_, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.store.audit.audit_log import append_audit
from ca.store.engine.counters import raise_counter
from ca.store.engine.database import Database
from ca.store.join_tokens import revoke_open
from ca.store.records import JoinGrant
from ca.store.tables import BUNDLE_SEQUENCE, certificates, evicted_certificates, evicted_sidecars, sidecars
from shared.model.errors import ConflictError, NotFoundError, RefusedError
from shared.model.identity.identity import Workload
from shared.model.trust.bundle import MAX_DISTRUSTED_LEAVES

MAX_EVICTED_AT_ONCE: Final = 1_000
_NAMED_IN_AUDIT: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Eviction:
    """What was evicted.

    Attributes:
        instances: of the sidecars, by name.
        certificates: how many unexpired ones are distrusted.
        ends: when the last of them ends, in seconds since the epoch; 0: there was none.
        tokens: IDs of join tokens that were revoked with them.
    """

    instances: tuple[str, ...]
    certificates: int
    ends: float
    tokens: tuple[str, ...]


class Evictions:
    """Who was evicted, and which certificates are distrusted for it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def evict(self, whom: str | Workload, *, now: float) -> Eviction:
        """Evict one sidecar by its instance, or all of a workload with its open join tokens.

        Raises:
            NotFoundError: there is no such sidecar.
            ConflictError: there would be more distrusted certificates, or sidecars at once, than the bound.
        """
        is_meant = sidecars.c.instance == whom if isinstance(whom, str) else _is_of(whom)
        async with self._database.writing() as connection:
            # First, as a rotation's steps do: the two take turns, and neither waits for the other's authorities.
            await raise_counter(self._database, connection, BUNDLE_SEQUENCE)
            # The ledger reads these rows with a lock where it writes a line: either this sees it, or it sees this.
            await connection.execute(update(sidecars).where(is_meant).values(connected=False))
            query = select(sidecars.c.instance, sidecars.c.pod_uid).where(is_meant).order_by(sidecars.c.instance)
            rows = list(await connection.execute(query.limit(MAX_EVICTED_AT_ONCE + 1)))
            if not rows:
                raise NotFoundError(f"no sidecar has joined as {whom}", hint="`touchmark ca status` lists them")
            if len(rows) > MAX_EVICTED_AT_ONCE:
                raise _too_many(f"{whom} has more than {MAX_EVICTED_AT_ONCE} sidecars")
            names = [row.instance for row in rows]
            for row in rows:
                values = {"instance": row.instance, "pod_uid": row.pod_uid, "evicted": now}
                await connection.execute(self._database.upsert(evicted_sidecars, values))
            count, ends = await self._distrust(connection, names, now)
            tokens = await revoke_open(connection, whom, now=now) if isinstance(whom, Workload) else ()
            after = {
                "sidecars": len(names),
                "named": names[:_NAMED_IN_AUDIT],
                "certificates": count,
                "tokens": tokens[:_NAMED_IN_AUDIT],
            }
            await append_audit(self._database, connection, "sidecar.evict", str(whom), after=after)
        return Eviction(instances=tuple(names), certificates=count, ends=ends, tokens=tokens)

    async def _distrust(self, connection: AsyncConnection, instances: Sequence[str], now: float) -> tuple[int, float]:
        """Distrust what the sidecars hold; return how many certificates that are, and when the last one ends."""
        query = select(certificates.c.serial, certificates.c.not_after).where(
            certificates.c.instance.in_(instances), certificates.c.not_after > now
        )
        lines = list(await connection.execute(query.limit(MAX_DISTRUSTED_LEAVES + 1)))
        for line in lines:
            values = {"serial": line.serial, "not_after": line.not_after}
            await connection.execute(self._database.upsert(evicted_certificates, values, update=()))
        total = await connection.scalar(select(func.count()).select_from(evicted_certificates))
        if int(total or 0) > MAX_DISTRUSTED_LEAVES:
            raise _too_many(f"more than {MAX_DISTRUSTED_LEAVES} certificates would be distrusted one by one")
        return len(lines), max((line.not_after for line in lines), default=0.0)

    async def list_serials(self) -> tuple[str, ...]:
        """Return the serial numbers that are distrusted, in hexadecimal."""
        async with self._database.reading() as connection:
            query = select(evicted_certificates.c.serial).order_by(evicted_certificates.c.serial)
            return tuple(await connection.scalars(query))

    async def list_instances(self) -> frozenset[str]:
        """Return the instances of evicted sidecars."""
        async with self._database.reading() as connection:
            return frozenset(await connection.scalars(select(evicted_sidecars.c.instance)))

    async def check(self, instance: str) -> None:
        """Check that a sidecar wasn't evicted.

        Raises:
            RefusedError: it was.
        """
        async with self._database.reading() as connection:
            await check_not_evicted(connection, instance)

    async def prune(self, *, now: float) -> int:
        """Take certificates that have ended out of the trust bundle; return how many."""
        has_ended = evicted_certificates.c.not_after <= now
        async with self._database.reading() as connection:
            if (
                await connection.execute(select(evicted_certificates.c.serial).where(has_ended).limit(1))
            ).first() is None:
                return 0
        async with self._database.writing() as connection:
            await raise_counter(self._database, connection, BUNDLE_SEQUENCE)
            return (await connection.execute(delete(evicted_certificates).where(has_ended))).rowcount

    async def readmit(self, connection: AsyncConnection, grant: JoinGrant) -> None:
        """Let a sidecar in again within the transaction of its enrolment, where it may come back.

        Raises:
            RefusedError: it is the evicted pod's, or its join token was made before the eviction.
        """
        query = select(evicted_sidecars).where(evicted_sidecars.c.instance == grant.instance)
        row = (await connection.execute(query)).first()
        if row is None:
            return
        is_same_pod = bool(grant.pod_uid) and grant.pod_uid == row.pod_uid
        if is_same_pod or (not grant.pod_uid and grant.granted <= row.evicted):
            raise _refusal(grant.instance, is_pod=is_same_pod)
        await connection.execute(delete(evicted_sidecars).where(evicted_sidecars.c.instance == grant.instance))
        await append_audit(self._database, connection, "sidecar.readmit", grant.instance)


async def check_not_evicted(connection: AsyncConnection, instance: str) -> None:
    """Check within a transaction that a sidecar wasn't evicted.

    Raises:
        RefusedError: it was.
    """
    query = select(evicted_sidecars.c.pod_uid).where(evicted_sidecars.c.instance == instance)
    row = (await connection.execute(query)).first()
    if row is not None:
        raise _refusal(instance, is_pod=bool(row.pod_uid))


async def find_evicted(connection: AsyncConnection, instances: Sequence[str]) -> frozenset[str]:
    """Return which of these sidecars were evicted, and hold their rows so that none is until the commit."""
    await connection.execute(
        select(sidecars.c.instance).where(sidecars.c.instance.in_(instances)).with_for_update(read=True)
    )
    query = select(evicted_sidecars.c.instance).where(evicted_sidecars.c.instance.in_(instances))
    return frozenset(await connection.scalars(query))


def _is_of(workload: Workload) -> ColumnElement[bool]:
    return and_(sidecars.c.namespace == workload.namespace, sidecars.c.service_account == workload.service_account)


def _refusal(instance: str, *, is_pod: bool) -> RefusedError:
    hint = "delete the pod; a new one may join" if is_pod else "join with a join token that is made from now on"
    return RefusedError(f"the sidecar {instance[:100]} was evicted", hint=hint)


def _too_many(message: str) -> ConflictError:
    return ConflictError(message, hint="`touchmark ca rotate issuer --force`, then `touchmark ca taint` the old issuer")
