"""Evicts sidecars: their certificates are distrusted until they end, and they can't come back with them. I/O.

Belongs here: one transaction that leaves no certificate out, and what lets a sidecar in again. Doesn't: ending streams
(``ca/api/admin/sidecars.py``), or telling the sidecars (the trust bundle does).

A pod's sidecar never comes back: its token would let it in at once, so the pod has to be replaced. Another one needs a
join token that was made after the eviction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, Table, and_, bindparam, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.store.audit.audit_log import append_audit
from ca.store.authority_records import read_restoration, settle_undone_evictions
from ca.store.engine.counters import raise_counter
from ca.store.engine.database import Database
from ca.store.engine.prepared import Prepared
from ca.store.join_tokens import revoke_open
from ca.store.records import BACKDATED_S, MAX_LEAF_LIFETIME_S, JoinGrant
from ca.store.tables import BUNDLE_SEQUENCE, certificates, evicted_certificates, evicted_sidecars, sidecars
from shared.model.errors import ConflictError, NotFoundError, RefusedError
from shared.model.identity.identity import Workload
from shared.model.trust.bundle import (
    INSTANCE_PREFIX,
    MAX_DISTRUSTED_LEAVES,
    SERIAL_PREFIX,
    list_instances,
    name_instance,
)

MAX_EVICTED_AT_ONCE: Final = 1_000
# Beyond it certificates are distrusted by their sidecar's name, which makes one entry of all that it could ever get.
MAX_ONE_BY_ONE: Final = 256
# A verifier whose clock is behind takes a certificate for valid that has ended here.
CLOCKS_BEHIND_S: Final = 3_600.0
_NAMED_IN_AUDIT: Final = 50
_EVICTED: Final = Prepared(select(evicted_sidecars).where(evicted_sidecars.c.instance == bindparam("instance")))
_BY_NAME: Final = Prepared(
    select(evicted_certificates.c.serial).where(evicted_certificates.c.serial.startswith(INSTANCE_PREFIX))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Eviction:
    """What was evicted.

    Attributes:
        instances: of the sidecars, by name; also of those that are gone and had certificates left.
        certificates: how many are distrusted.
        ends: when the last of them ends, in seconds since the epoch; 0: there was none.
        tokens: IDs of join tokens that were revoked with them.
        is_unknown: the store has no such sidecar; it may lack it since a backup was restored, so its name is barred.
    """

    instances: tuple[str, ...]
    certificates: int
    ends: float
    tokens: tuple[str, ...]
    is_unknown: bool = False


class Evictions:
    """Who was evicted, and which certificates are distrusted for it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def evict(self, whom: str | Workload, *, now: float) -> Eviction:
        """Evict one sidecar by its instance, or all of a workload with its open join tokens.

        A sidecar that is gone, as that of a deleted pod, may have left its certificates in the wrong hands: they are
        distrusted as well.

        Raises:
            NotFoundError: there is no such sidecar, and none has left certificates.
            ConflictError: there would be more distrusted certificates, or sidecars at once, than the bound.
        """
        is_meant = _select(sidecars, whom)
        async with self._database.writing() as connection:
            # First, as a rotation's steps do: the two take turns, and neither waits for the other's authorities.
            await raise_counter(connection, BUNDLE_SEQUENCE)
            # The ledger reads these rows with a lock where it writes a line: either this sees it, or it sees this.
            await connection.execute(update(sidecars).where(is_meant).values(connected=False))
            query = select(sidecars.c.instance, sidecars.c.pod_uid).where(is_meant).order_by(sidecars.c.instance)
            rows = list(await connection.execute(query.limit(MAX_EVICTED_AT_ONCE + 1)))
            held = await _list_held(connection, whom, now)
            names = sorted({row.instance for row in rows}.union(held))
            restoration = await read_restoration(connection)
            is_short = restoration is not None and restoration.is_ledger_short(now)
            is_unknown = not names and is_short and isinstance(whom, str)
            if is_unknown:
                names = [str(whom)]  # It may have joined after the backup that was restored.
            if not names:
                raise NotFoundError(f"no sidecar has joined as {whom}", hint="`touchmark ca status` lists them")
            if len(names) > MAX_EVICTED_AT_ONCE:
                raise _too_many(f"{whom} has more than {MAX_EVICTED_AT_ONCE} sidecars")
            for row in rows:
                values = {"instance": row.instance, "pod_uid": row.pod_uid, "evicted": now}
                await connection.execute(self._database.upsert(evicted_sidecars, values))
            count, ends = await self._distrust(connection, names, held, now, is_short=is_short)
            tokens = await revoke_open(connection, whom, now=now) if isinstance(whom, Workload) else ()
            after = {
                "sidecars": len(names),
                "named": names[:_NAMED_IN_AUDIT],
                "certificates": count,
                "tokens": tokens[:_NAMED_IN_AUDIT],
            }
            await append_audit(self._database, connection, "sidecar.evict", str(whom), after=after)
            await settle_undone_evictions(self._database, connection, {str(whom), *names})
        return Eviction(instances=tuple(names), certificates=count, ends=ends, tokens=tokens, is_unknown=is_unknown)

    async def _distrust(
        self,
        connection: AsyncConnection,
        instances: Sequence[str],
        held: Mapping[str, _Held],
        now: float,
        *,
        is_short: bool,
    ) -> tuple[int, float]:
        """Distrust what the sidecars hold; return how many certificates that are, and when the last one ends.

        Arguments:
            is_short: the ledger may lack some of them.
        """
        count = sum(each.count for each in held.values())
        ends = max((each.ends for each in held.values()), default=0.0)
        entries: dict[str, float] = {}
        if count <= MAX_ONE_BY_ONE:
            query = select(certificates.c.serial, certificates.c.not_after).where(
                certificates.c.instance.in_(held), certificates.c.not_after > now - CLOCKS_BEHIND_S
            )
            entries.update({line.serial: line.not_after for line in await connection.execute(query)})
        if count > MAX_ONE_BY_ONE or is_short:
            # What the ledger lacks after a restore ends within the longest life that a certificate can have.
            last = max(ends, now + MAX_LEAF_LIFETIME_S) if is_short else ends
            entries.update({name_instance(instance, until=int(now)): last for instance in instances})
        for serial, not_after in entries.items():
            values = {"serial": serial, "not_after": not_after}
            await connection.execute(self._database.upsert(evicted_certificates, values, update=()))
        total = await connection.scalar(select(func.count()).select_from(evicted_certificates))
        if int(total or 0) > MAX_DISTRUSTED_LEAVES:
            raise _too_many(f"more than {MAX_DISTRUSTED_LEAVES} certificates would be distrusted one by one")
        return count, ends

    async def dismiss(self, whom: str | Workload) -> None:
        """Let an eviction that a restore has undone stay undone: nobody is reminded of it any more.

        Raises:
            NotFoundError: no restore has undone such an eviction.
        """
        async with self._database.writing() as connection:
            # First: with it evictions and these take turns.
            await append_audit(self._database, connection, "eviction.dismiss", str(whom))
            if not await settle_undone_evictions(self._database, connection, {str(whom)}):
                raise NotFoundError(
                    f"no restore has undone an eviction of {whom}",
                    hint="`touchmark status` names those that are undone",
                )

    async def list_distrusted(self) -> tuple[str, ...]:
        """Return what is distrusted, as a trust bundle says it."""
        async with self._database.reading() as connection:
            query = select(evicted_certificates.c.serial).order_by(evicted_certificates.c.serial)
            return tuple(
                entry if entry.startswith(INSTANCE_PREFIX) else f"{SERIAL_PREFIX}{entry}"
                for entry in await connection.scalars(query)
            )

    async def list_instances(self) -> frozenset[str]:
        """Return the instances of evicted sidecars."""
        async with self._database.reading() as connection:
            return frozenset(await connection.scalars(select(evicted_sidecars.c.instance)))

    async def check(self, instance: str) -> None:
        """Check that a sidecar wasn't evicted.

        Raises:
            RefusedError: it was.
        """
        await self._database.read(lambda connection: check_not_evicted(connection, instance))

    async def prune(self, *, now: float) -> int:
        """Take certificates that ended some time ago out of the trust bundle; return how many."""
        has_ended = evicted_certificates.c.not_after <= now - CLOCKS_BEHIND_S
        async with self._database.reading() as connection:
            if (
                await connection.execute(select(evicted_certificates.c.serial).where(has_ended).limit(1))
            ).first() is None:
                return 0
        async with self._database.writing() as connection:
            await raise_counter(connection, BUNDLE_SEQUENCE)
            return (await connection.execute(delete(evicted_certificates).where(has_ended))).rowcount

    async def readmit(self, connection: AsyncConnection, grant: JoinGrant) -> None:
        """Let a sidecar in again within the transaction of its enrolment, where it may come back.

        Raises:
            RefusedError: it is the evicted pod's, or its join token was made before the eviction.
        """
        row = (await _EVICTED.on(connection, instance=grant.instance)).first()
        if row is not None:
            is_same_pod = bool(grant.pod_uid) and grant.pod_uid == row.pod_uid
            if is_same_pod or (not grant.pod_uid and grant.granted <= row.evicted):
                raise _refusal(grant.instance, is_pod=is_same_pod)
        until = list_instances(row.serial for row in await _BY_NAME.on(connection)).get(grant.instance)
        if row is None and until is not None and grant.pod_uid:
            # The store that was restored didn't know it. A pod's instance names the pod itself.
            raise _refusal(grant.instance, is_pod=True)
        # Its new certificates are backdated: those of the first moments would be among the distrusted ones.
        if until is not None and not grant.pod_uid and grant.granted <= until + BACKDATED_S + 1:
            raise RefusedError(
                f"the sidecar {grant.instance[:100]} was evicted a moment ago",
                hint="join with a join token that is made two minutes after the eviction, or under another name",
            )
        if row is None:
            return
        await connection.execute(delete(evicted_sidecars).where(evicted_sidecars.c.instance == grant.instance))
        await append_audit(self._database, connection, "sidecar.readmit", grant.instance)


async def check_not_evicted(connection: AsyncConnection, instance: str) -> None:
    """Check within a transaction that a sidecar wasn't evicted.

    Raises:
        RefusedError: it was.
    """
    row = (await _EVICTED.on(connection, instance=instance)).first()
    if row is not None:
        raise _refusal(instance, is_pod=bool(row.pod_uid))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """A sidecar's certificates that may count somewhere: how many, and when the last one ends."""

    count: int
    ends: float


async def _list_held(connection: AsyncConnection, whom: str | Workload, now: float) -> dict[str, _Held]:
    """Return what sidecars hold, by instance, also of those that are gone; at most one more than may be evicted."""
    query = (
        select(certificates.c.instance, func.count(), func.max(certificates.c.not_after))
        .where(_select(certificates, whom), certificates.c.not_after > now - CLOCKS_BEHIND_S)
        .group_by(certificates.c.instance)
        .limit(MAX_EVICTED_AT_ONCE + 1)
    )
    return {row[0]: _Held(count=row[1], ends=row[2]) for row in await connection.execute(query)}


def _select(table: Table, whom: str | Workload) -> ColumnElement[bool]:
    """The condition of rows about a sidecar, or about all of a workload."""
    if isinstance(whom, str):
        return table.c.instance == whom
    return and_(table.c.namespace == whom.namespace, table.c.service_account == whom.service_account)


def _refusal(instance: str, *, is_pod: bool) -> RefusedError:
    hint = "delete the pod; a new one may join" if is_pod else "join with a join token that is made from now on"
    return RefusedError(f"the sidecar {instance[:100]} was evicted", hint=hint)


def _too_many(message: str) -> ConflictError:
    return ConflictError(message, hint="`touchmark ca rotate issuer --force`, then `touchmark ca taint` the old issuer")
