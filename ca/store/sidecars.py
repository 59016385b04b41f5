"""Sidecars in the store: who has joined, at which addresses, and what each has installed. I/O through ``Database``.

Longer than most: each way in which a sidecar's one row changes is here, and which of two sidecars it belongs to.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Double, Table, bindparam, delete, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.store.audit.audit_log import append_audit
from ca.store.engine.counters import raise_counter
from ca.store.engine.database import Database
from ca.store.engine.prepared import Prepared, prepare_update, prepare_upsert
from ca.store.evictions import check_not_evicted
from ca.store.records import Joined, JoinGrant, SidecarRecord
from ca.store.tables import (
    REGISTRATIONS,
    certificates,
    evicted_sidecars,
    installed_namespaces,
    renewal_keys,
    replicas,
    sidecar_addresses,
    sidecars,
)
from shared.model.errors import ConflictError, NotFoundError, RefusedError
from shared.model.identity.identity import IdentityKind, Workload
from shared.model.wire.messages import Registration
from shared.model.wire.registration import check_registration, normalise_address

_addresses: Final = msgspec.json.Decoder(tuple[str, ...])
_labels: Final = msgspec.json.Decoder(dict[str, str])
_IS_POD: Final = evicted_sidecars.c.pod_uid != ""
# Sidecars in one statement; an answer has several.
_LOOKED_AT_ONCE: Final = 1_000
# Of a replica whose last sign of life is older than two of its beats it isn't known whether its streams are open.
_REPLICA_BEATS_S: Final = 12.0


def _is_live(now: Any) -> Any:
    holds_certificate = exists().where(certificates.c.instance == sidecars.c.instance, certificates.c.not_after > now)
    return or_(sidecars.c.connected, holds_certificate)


def _live(now: float, *, with_evicted: bool) -> tuple[ColumnElement[bool], ...]:
    if with_evicted:
        return (_is_live(now),)
    return _is_live(now), sidecars.c.instance.not_in(select(evicted_sidecars.c.instance))


_OF_INSTANCE: Final = sidecars.c.instance == bindparam("of_instance")
_BY_INSTANCE: Final = Prepared(select(sidecars).where(sidecars.c.instance == bindparam("instance")))
_LOCK: Final = Prepared(select(sidecars).where(sidecars.c.instance == bindparam("instance")).with_for_update())
_ADDRESSES: Final = Prepared(
    select(sidecar_addresses.c.address)
    .where(sidecar_addresses.c.instance == bindparam("instance"))
    .order_by(sidecar_addresses.c.address)
)
_INSTALLED: Final = Prepared(
    select(installed_namespaces).where(installed_namespaces.c.instance == bindparam("instance"))
)
_COUNT_INSTALLED: Final = Prepared(
    select(func.count())
    .select_from(installed_namespaces)
    .where(installed_namespaces.c.instance == bindparam("instance"))
)
_EVICTED: Final = Prepared(
    select(evicted_sidecars.c.evicted).where(evicted_sidecars.c.instance == bindparam("instance"))
)
_HOLDER: Final = Prepared(
    select(sidecar_addresses.c.address, sidecars.c.namespace, sidecars.c.service_account)
    .join(sidecars, sidecars.c.instance == sidecar_addresses.c.instance)
    .where(
        sidecar_addresses.c.address == bindparam("address"),
        sidecars.c.instance != bindparam("instance"),
        ~sidecars.c.has_stopped,
        _is_live(bindparam("now", type_=Double)),
    )
)
_ENTER: Final = prepare_upsert(
    sidecars,
    (
        "instance", "namespace", "service_account", "allowed_addresses", "labels", "tunnel_port", "version", "capture",
        "joined", "last_seen", "connected", "installed_sequence", "pod_uid", "has_stopped", "key_digest",
    ),
)  # fmt: skip
_REGISTER: Final = prepare_update(
    sidecars,
    (
        "tunnel_port", "version", "capture", "last_seen", "connected", "has_stopped", "replica", "clock_offset_s",
    ),
    _OF_INSTANCE,
    returns=True,
)  # fmt: skip
_MARK_SEEN: Final = prepare_update(
    sidecars,
    ("last_seen", "connected", "has_stopped"),
    _OF_INSTANCE,
    or_(sidecars.c.replica == "", sidecars.c.replica == bindparam("of_replica")),
)
_INSTALL_BUNDLE: Final = prepare_update(sidecars, ("installed_sequence",), _OF_INSTANCE)
_INSTALL: Final = prepare_upsert(installed_namespaces, ("instance", "namespace", "version"))
_SUBSCRIBE: Final = prepare_upsert(installed_namespaces, ("instance", "namespace", "version"), updated=())
_TAKE_ADDRESS: Final = prepare_upsert(sidecar_addresses, ("address", "instance"))
_DROP_ADDRESSES: Final = Prepared(
    delete(sidecar_addresses).where(sidecar_addresses.c.instance == bindparam("instance"))
)
_DROP_INSTALLED: Final = Prepared(
    delete(installed_namespaces).where(installed_namespaces.c.instance == bindparam("instance"))
)


class SecondSidecarError(RefusedError):
    """A sidecar joins, or resumes by an older key, under the name of one whose stream is open.

    Attributes:
        registered: when that one was last seen, by which it is replaced; 0 where it can't be.
    """

    def __init__(self, instance: str, *, registered: float = 0.0) -> None:
        super().__init__(
            f"a sidecar called {instance[:100]} is connected already",
            hint="one of both isn't genuine: `touchmark status` says more; replace the pod, or `touchmark ca evict` it",
        )
        self.reason = "second_sidecar"
        self.registered = registered


class Sidecars:
    """Who has joined.

    Arguments:
        replica: this process's name among replicas; empty where it is alone.
    """

    def __init__(self, database: Database, *, replica: str) -> None:
        self._database = database
        self._replica = replica

    async def enter(
        self, connection: AsyncConnection, grant: JoinGrant, now: float, *, key_digest: bytes, replaces: float | None
    ) -> None:
        """Enter a sidecar within a greater transaction; an earlier one of the same name has no say from now on.

        Arguments:
            key_digest: SHA-256 of the public key that asks. The one that has joined may repeat it: its answer may have
                been lost.
            replaces: it takes the place of one whose stream is noted as open and whose certificate is valid, if that
                one was last seen then: a ``SecondSidecarError`` says when. A later stream isn't replaced.

        Raises:
            RefusedError: the instance's name belongs to a sidecar of another workload.
            SecondSidecarError: it would take the place of such a one.
        """
        workload, instance = grant.workload, grant.instance
        # With a lock, so that of two that join with two replicas one sees the other.
        row = (await _LOCK.on(connection, instance=instance)).first()
        if row is not None and (row.namespace, row.service_account) != (workload.namespace, workload.service_account):
            raise RefusedError(f"another workload's sidecar is called {instance}", hint="choose another instance name")
        is_kept = row is not None and row.connected and row.key_digest != key_digest and row.last_seen != replaces
        if row is not None and is_kept and await connection.scalar(select(_holds_certificate(instance, now))):
            raise SecondSidecarError(instance, registered=row.last_seen)
        values = {
            "instance": instance,
            "namespace": workload.namespace,
            "service_account": workload.service_account,
            "allowed_addresses": _json(grant.addresses),
            "labels": _json(grant.labels),
            "tunnel_port": 0,
            "version": "",
            "capture": "",
            # The same key: what was issued to it before stays its own, as an answer that arrives after all.
            "joined": row.joined if row is not None and row.key_digest == key_digest else now,
            "last_seen": now,
            "connected": False,
            "installed_sequence": 0,  # Its memory is new: it has installed nothing.
            "pod_uid": grant.pod_uid,
            "has_stopped": False,
            "key_digest": key_digest,
        }
        await _ENTER.on(connection, **values)
        await _DROP_ADDRESSES.on(connection, instance=instance)
        await _DROP_INSTALLED.on(connection, instance=instance)

    async def list_of_pods(self, *, joined_before: float) -> dict[str, str]:
        """Return the instances of pods' sidecars that joined before then, with their pods' UIDs."""
        async with self._database.reading() as connection:
            rows = await connection.execute(
                select(sidecars.c.instance, sidecars.c.pod_uid).where(
                    sidecars.c.pod_uid != "", sidecars.c.joined < joined_before
                )
            )
            return {row.instance: row.pod_uid for row in rows}

    async def delete_of_pods(self, pod_uids: Sequence[str]) -> int:
        """Forget the sidecars of pods that are gone, at most 500 at once; return how many there were.

        No rotation waits for them any longer. Their certificates stay in the ledger until they end.
        """
        async with self._database.writing() as connection:
            gone = list(
                await connection.scalars(
                    select(sidecars.c.instance).where(
                        sidecars.c.pod_uid != "", sidecars.c.pod_uid.in_(list(pod_uids)[:500])
                    )
                )
            )
            for table in (sidecars, sidecar_addresses, installed_namespaces, evicted_sidecars):
                await connection.execute(delete(table).where(table.c.instance.in_(gone)))
            if gone:
                await raise_counter(connection, REGISTRATIONS)
        return len(gone)

    async def register(self, grant: JoinGrant, registration: Registration, *, now: float) -> SidecarRecord:
        """Note what a sidecar says of itself, and that its stream is open.

        An address that another sidecar holds changes hands when that one has the same workload or is no longer alive,
        or when the API server vouches for the new one: a cluster uses a pod's address again at once.

        Raises:
            RefusedError: the grant doesn't name an address, or is for another instance.
            ConflictError: a live sidecar of another workload holds an address.
            InputError: a value can't be.
        """
        return await self._database.write(
            lambda connection: self.note_registration(connection, grant, registration, now)
        )

    async def note_registration(
        self, connection: AsyncConnection, grant: JoinGrant, registration: Registration, now: float
    ) -> SidecarRecord:
        """Register a sidecar within a greater transaction; arguments and errors are those of ``register``."""
        await check_not_evicted(connection, grant.instance)
        if registration.instance != grant.instance:
            raise RefusedError("the certificate belongs to another sidecar instance")
        wanted = check_registration(registration, grant.addresses)
        addresses = await self._take_addresses(connection, grant, wanted, now)
        changed = await _REGISTER.on(
            connection,
            of_instance=grant.instance,
            tunnel_port=registration.tunnel_port,
            version=registration.version,
            capture=registration.capture,
            last_seen=now,
            connected=True,
            has_stopped=False,
            replica=self._replica,
            clock_offset_s=registration.time_ms / 1000 - now if registration.time_ms else None,
        )
        if (row := changed.first()) is None:
            raise RefusedError(f"no sidecar {grant.instance} has joined", hint="join with a new join token")
        installed = await _INSTALLED.on(connection, instance=grant.instance)
        await raise_counter(connection, REGISTRATIONS)
        return _sidecar(row, addresses, {each.namespace: each.version for each in installed}, None)

    async def mark_seen(self, instance: str, *, connected: bool, has_stopped: bool = False, now: float) -> None:
        """Note that the sidecar's stream with this replica is open, or has closed.

        One that said that it stops (``has_stopped``) gives its addresses back: others may have them, although its
        certificates haven't ended. Until then they stay listed as its own, so that nobody speaks plainly with them.

        A stream that has moved to another replica is left alone: it is open there.
        """

        async def mark(connection: AsyncConnection) -> None:
            changed = await _MARK_SEEN.on(
                connection,
                of_instance=instance,
                of_replica=self._replica,
                last_seen=now,
                connected=connected,
                has_stopped=has_stopped,
            )
            if changed.rowcount != 1 and (await _BY_INSTANCE.on(connection, instance=instance)).first() is None:
                raise NotFoundError(f"no sidecar {instance}")

        await self._database.write(mark)

    async def disconnect_all(self) -> None:
        """Note, at start, that no stream with this replica is open."""
        async with self._database.writing() as connection:
            await connection.execute(
                update(sidecars).where(sidecars.c.replica.in_(("", self._replica))).values(connected=False)
            )

    async def is_open_here(self, instance: str, *, now: float) -> bool:
        """Return whether the sidecar holds a valid certificate and its stream is noted as open with this replica."""
        query = select(sidecars.c.instance).where(
            sidecars.c.instance == instance,
            sidecars.c.connected,
            sidecars.c.replica.in_(("", self._replica)),
            _holds_certificate(instance, now),
        )
        async with self._database.reading() as connection:
            return (await connection.execute(query)).first() is not None

    async def is_open_elsewhere(self, instance: str, *, now: float) -> bool:
        """Return whether the sidecar holds a valid certificate and its stream is open with another, living replica."""
        async with self._database.reading() as connection:
            clock = await self._database.read_clock(connection)
            query = (
                select(sidecars.c.instance)
                .join(replicas, replicas.c.replica == sidecars.c.replica)
                .where(
                    sidecars.c.instance == instance,
                    sidecars.c.connected,
                    sidecars.c.replica != self._replica,
                    replicas.c.seen > clock - _REPLICA_BEATS_S,
                    _holds_certificate(instance, now),
                )
            )
            return (await connection.execute(query)).first() is not None

    async def note_second(self, instance: str, *, origin: str, now: float) -> int:
        """Note that another sidecar came under the name of one that is alive; return how often that has happened.

        The first time is entered in the audit log as well; not each, since it is an attacker who decides how many.

        Arguments:
            origin: the address that it came from.
        """
        async with self._database.writing() as connection:
            values = {"second_count": sidecars.c.second_count + 1, "second_at": now, "second_from": origin[:100]}
            await connection.execute(update(sidecars).where(sidecars.c.instance == instance).values(**values))
            query = select(sidecars.c.second_count).where(sidecars.c.instance == instance)
            number = int(await connection.scalar(query) or 0)
            if number == 1:
                await append_audit(self._database, connection, "sidecar.second", instance, after={"from": origin[:100]})
        return number

    async def mark_bundle_installed(self, instance: str, sequence: int) -> None:
        """Note that the sidecar has installed the trust bundle of this sequence."""

        async def mark(connection: AsyncConnection) -> None:
            changed = await _INSTALL_BUNDLE.on(connection, of_instance=instance, installed_sequence=sequence)
            if changed.rowcount != 1:
                raise NotFoundError(f"no sidecar {instance}")

        await self._database.write(mark)

    async def mark_namespace_installed(self, instance: str, namespace: str, version: int) -> None:
        """Note that the sidecar has installed this version of a namespace's state."""
        await self._database.write(
            lambda connection: _INSTALL.on(connection, instance=instance, namespace=namespace, version=version)
        )

    async def mark_subscribed(self, instance: str, namespace: str, *, at_most: int) -> None:
        """Note that the sidecar uses a namespace's state from now on: it is waited for, whichever replica asks.

        Raises:
            RefusedError: it does so with as many already, on earlier streams too: it has named others on each.
        """

        async def mark(connection: AsyncConnection) -> None:
            await _SUBSCRIBE.on(connection, instance=instance, namespace=namespace, version=0)
            if int((await _COUNT_INSTALLED.on(connection, instance=instance)).scalar() or 0) > at_most:
                raise RefusedError(f"a sidecar subscribes to at most {at_most} namespaces")

        await self._database.write(mark)

    async def get(self, instance: str) -> SidecarRecord | None:
        """Return one sidecar."""
        return await self._database.read(lambda connection: read_sidecar(connection, instance))

    async def get_at(self, address: str) -> SidecarRecord | None:
        """Return the sidecar that registered this IP address."""
        async with self._database.reading() as connection:
            instance = await connection.scalar(
                select(sidecar_addresses.c.instance).where(sidecar_addresses.c.address == normalise_address(address))
            )
            return await read_sidecar(connection, instance) if instance else None

    async def list_all(self) -> list[SidecarRecord]:
        """Return every sidecar, by instance."""
        async with self._database.reading() as connection:
            return await _read_sidecars(connection)

    async def list_live(self, *, now: float, with_evicted: bool = False) -> list[SidecarRecord]:
        """Return those whose stream is open or that still hold an unexpired certificate.

        Arguments:
            with_evicted: also those that were evicted: nothing waits for them, but their addresses stay listed until
                their certificates have ended, so that nobody speaks plainly with them.
        """
        async with self._database.reading() as connection:
            return await _read_sidecars(connection, *_live(now, with_evicted=with_evicted))

    async def list_live_instances(self, *, now: float) -> frozenset[str]:
        """Return the names of those that ``list_live`` returns: who they are takes several times as long."""
        async with self._database.reading() as connection:
            query = select(sidecars.c.instance).where(*_live(now, with_evicted=False))
            return frozenset(await connection.scalars(query))

    async def list_renewable(self, *, grace_s: float) -> dict[str, float]:
        """Return until when each sidecar that has a renewal key may come back by it, by instance."""
        # Of each its last certificate by an index, from the end: grouped, all that was ever issued would be read, and
        # ``max`` may read all of an instance.
        last = (
            select(certificates.c.not_after)
            .where(certificates.c.instance == renewal_keys.c.instance)
            .where(certificates.c.kind == IdentityKind.SIDECAR.value)
            .order_by(certificates.c.not_after.desc())
            .limit(1)
        )
        instance, spent = renewal_keys.c.instance, renewal_keys.c.spent
        # In the index's whole order, though one column is always the same: PostgreSQL doesn't see that.
        query = select(instance, last.scalar_subquery()).where(spent.is_(None)).order_by(spent, instance)
        found: dict[str, float] = {}
        async with self._database.reading() as connection:
            rows = (await connection.execute(query.limit(_LOOKED_AT_ONCE))).all()
            while rows:
                found.update((row[0], row[1] + grace_s) for row in rows if row[1] is not None)
                # One sidecar's keys all have the same end: what a portion has of them is enough.
                rows = (await connection.execute(query.where(instance > rows[-1][0]).limit(_LOOKED_AT_ONCE))).all()
        return found

    async def delete_silent(self, *, silent_since: float, now: float) -> int:
        """Forget sidecars that are not alive and haven't been seen since then; return how many."""
        async with self._database.writing() as connection:
            gone = list(
                await connection.scalars(
                    select(sidecars.c.instance)
                    .where(~_is_live(now), sidecars.c.last_seen < silent_since)
                    # An evicted pod could join anew by its token: forgotten with its pod, not before.
                    .where(sidecars.c.instance.not_in(select(evicted_sidecars.c.instance).where(_IS_POD)))
                    .limit(500)
                )
            )
            for table in (sidecars, sidecar_addresses, installed_namespaces, evicted_sidecars, renewal_keys):
                await connection.execute(delete(table).where(table.c.instance.in_(gone)))
            if gone:
                await raise_counter(connection, REGISTRATIONS)
        return len(gone)

    async def _take_addresses(
        self, connection: AsyncConnection, grant: JoinGrant, addresses: Sequence[str], now: float
    ) -> Sequence[str]:
        """Have a sidecar hold these addresses and no others; return them, each once."""
        wanted = sorted(set(addresses))
        held = await _ADDRESSES.on(connection, instance=grant.instance)
        if {each.address for each in held} == set(wanted):  # As of most that come again; each address has one holder.
            return wanted
        for address in wanted if not grant.pod_uid else ():
            row = (await _HOLDER.on(connection, address=address, instance=grant.instance, now=now)).first()
            own = grant.workload.namespace, grant.workload.service_account
            if row is not None and (row.namespace, row.service_account) != own:
                raise ConflictError(
                    f"{row.address} belongs to a live sidecar of {row.namespace}/{row.service_account}",
                    hint="stop that sidecar; if it was killed, the address is free once its certificates have expired",
                )
        await _DROP_ADDRESSES.on(connection, instance=grant.instance)
        for address in wanted:
            await _TAKE_ADDRESS.on(connection, address=address, instance=grant.instance)
        return wanted


async def read_sidecar(connection: AsyncConnection, instance: str) -> SidecarRecord | None:
    """Return one sidecar within a greater transaction."""
    row = (await _BY_INSTANCE.on(connection, instance=instance)).first()
    if row is None:
        return None
    addresses = await _ADDRESSES.on(connection, instance=instance)
    installed = await _INSTALLED.on(connection, instance=instance)
    return _sidecar(
        row,
        [each.address for each in addresses],
        {each.namespace: each.version for each in installed},
        (await _EVICTED.on(connection, instance=instance)).scalar(),
    )


async def read_joined(connection: AsyncConnection, instance: str) -> Joined | None:
    """Return within a greater transaction what a sidecar was granted, and when it joined."""
    row = (await _BY_INSTANCE.on(connection, instance=instance)).first()
    return None if row is None else Joined(grant=_sidecar(row, (), {}, None).grant, joined=row.joined)


async def read_certificates_end(connection: AsyncConnection, record: SidecarRecord) -> float:
    """Return within a greater transaction when the sidecar's last own certificate ended or will.

    Where the ledger has forgotten it, it is when the sidecar was last seen.
    """
    query = select(func.max(certificates.c.not_after)).where(
        certificates.c.instance == record.instance, certificates.c.kind == IdentityKind.SIDECAR.value
    )
    return float(await connection.scalar(query) or record.last_seen)


def _holds_certificate(instance: str, now: float) -> Any:
    """Return whether the sidecar's own certificate is valid: else it couldn't go on anyway."""
    return exists().where(
        certificates.c.instance == instance,
        certificates.c.not_after > now,
        certificates.c.kind == IdentityKind.SIDECAR.value,
    )


async def _read_sidecars(connection: AsyncConnection, *conditions: ColumnElement[bool]) -> list[SidecarRecord]:
    """Return the sidecars for which the conditions hold, by instance.

    There may be thousands: portion by portion, between which the event loop has its turn. In one transaction, so that
    an address that moves from one to another meanwhile is neither missing nor there twice.
    """
    found: list[SidecarRecord] = []
    after = ""  # None has such a name.
    while True:
        names = select(sidecars.c.instance).where(sidecars.c.instance > after).order_by(sidecars.c.instance)
        # Up to the last of a portion, whether the conditions hold for them or not: a few among many would take long.
        last = await connection.scalar(names.offset(_LOOKED_AT_ONCE - 1).limit(1))
        found += await _read_portion(connection, after, last, conditions)
        if last is None:
            return found
        after = last


async def _read_portion(
    connection: AsyncConnection, after: str, last: str | None, conditions: Sequence[ColumnElement[bool]]
) -> list[SidecarRecord]:
    """Return those behind ``after``, up to ``last``; None: to the end."""

    def list_bounds(table: Table) -> list[ColumnElement[bool]]:
        bounds = [table.c.instance > after]
        return bounds if last is None else [*bounds, table.c.instance <= last]

    query = select(sidecars).where(*list_bounds(sidecars), *conditions).order_by(sidecars.c.instance)
    rows = (await connection.execute(query)).all()
    if not rows:
        return []
    its = sidecar_addresses.c
    addresses: dict[str, list[str]] = {}
    query = select(its.address, its.instance).where(*list_bounds(sidecar_addresses)).order_by(its.instance, its.address)
    for address, instance in await connection.execute(query):
        addresses.setdefault(instance, []).append(address)
    installed: dict[str, dict[str, int]] = {}
    for instance, namespace, version in await connection.execute(
        select(installed_namespaces).where(*list_bounds(installed_namespaces))
    ):
        installed.setdefault(instance, {})[namespace] = version
    query = select(evicted_sidecars.c.instance, evicted_sidecars.c.evicted).where(*list_bounds(evicted_sidecars))
    evicted = {row[0]: row[1] for row in await connection.execute(query)}
    # By position: a thousand rows' columns by name take longer than all else.
    return [_sidecar(row, addresses.get(row[0], ()), installed.get(row[0], {}), evicted.get(row[0])) for row in rows]


# In the order of the table's columns: a thousand rows' columns by name take longer than all else.
def _sidecar(row: Any, addresses: Sequence[str], installed: dict[str, int], evicted: float | None) -> SidecarRecord:
    (
        instance, namespace, service_account, allowed_addresses, labels, tunnel_port, version, capture, joined,
        last_seen, connected, installed_sequence, pod_uid, _replica, _last_batch, has_stopped, clock_offset_s,
        _key_digest, second_count, second_at, second_from,
    ) = row  # fmt: skip
    return SidecarRecord(
        instance=instance,
        workload=_name_workload(namespace, service_account),
        allowed_addresses=_addresses.decode(allowed_addresses),
        addresses=tuple(addresses),
        labels=_labels.decode(labels),
        tunnel_port=tunnel_port,
        version=version,
        capture=capture,
        joined=joined,
        last_seen=last_seen,
        connected=connected,
        installed_sequence=installed_sequence,
        namespace_versions=installed,
        pod_uid=pod_uid,
        clock_offset_s=clock_offset_s,
        evicted=evicted,
        has_stopped=has_stopped,
        second_count=second_count,
        second_at=second_at,
        second_from=second_from,
    )


@lru_cache(maxsize=4096)
def _name_workload(namespace: str, service_account: str) -> Workload:
    return Workload(namespace=namespace, service_account=service_account)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
