"""Join tokens and sidecars in the store. I/O through ``Database``."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Row, and_, delete, exists, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.store.namespaces import NamespaceTable
from ca.store.records import AuthorityKind, JoinGrant, JoinTokenRecord, SidecarRecord
from ca.store.tables import (
    REGISTRATIONS,
    authorities,
    certificates,
    installed_namespaces,
    join_tokens,
    sidecar_addresses,
    sidecars,
)
from shared.model.errors import ConflictError, InputError, NotFoundError, RefusedError
from shared.model.identity.identity import Workload
from shared.model.trust.bundle import AuthorityPhase
from shared.model.wire.messages import Registration

MAX_ADDRESSES: Final = 64
MAX_LABELS: Final = 64
MAX_LABEL_CHARACTERS: Final = 256
_INSTANCE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MAX_WORD_CHARACTERS: Final = 64
_addresses: Final = msgspec.json.Decoder(tuple[str, ...])
_labels: Final = msgspec.json.Decoder(dict[str, str])


class EnrolmentTable(NamespaceTable):
    """Who may join, who has joined, and what each sidecar has installed."""

    async def create_join_token(
        self, *, workload: Workload, addresses: Sequence[str], labels: dict[str, str], expires: float, now: float
    ) -> tuple[JoinTokenRecord, str]:
        """Make a join token; return its record and its secret, of which only a digest is kept.

        It pins the root that is active at this moment, which isn't retired while the token is open.

        Raises:
            InputError: an address or a label can't be, or it would expire at once.
        """
        if expires <= now:
            raise InputError("the join token would have expired already", hint="give it a longer life")
        spelled, checked = normalise_addresses(addresses), check_labels(labels)
        secret = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")
        async with self.database.writing() as connection:
            record = JoinTokenRecord(
                token_id=secrets.token_hex(8),
                workload=workload,
                addresses=spelled,
                labels=checked,
                created=now,
                expires=expires,
                root_pin=await _read_active_root(connection),
            )
            await connection.execute(
                insert(join_tokens).values(
                    token_id=record.token_id,
                    secret_digest=_digest(secret),
                    namespace=workload.namespace,
                    service_account=workload.service_account,
                    addresses=_json(record.addresses),
                    labels=_json(record.labels),
                    created=now,
                    expires=expires,
                    spent=None,
                    instance="",
                    root_pin=record.root_pin,
                )
            )
        return record, secret

    async def spend_join_token(self, *, token_id: str, secret: str, instance: str, now: float) -> JoinGrant:
        """Spend a token and enter its sidecar, in one transaction: of many attempts at once exactly one succeeds.

        Raises:
            RefusedError: it is unknown, its secret is wrong (the same message for both), it has expired or is spent;
                or the instance's name belongs to a sidecar of another workload. Only success spends it.
        """
        check_instance(instance)
        async with self.database.writing() as connection:
            row = (await connection.execute(select(join_tokens).where(join_tokens.c.token_id == token_id))).first()
            expected = row.secret_digest if row is not None else bytes(32)
            if not hmac.compare_digest(_digest(secret), expected) or row is None:
                raise RefusedError("no such join token", hint="make a new one with `touchmark ca join-token`")
            token = _join_token(row)
            if token.spent is not None:
                raise RefusedError("this join token has been spent", hint="it is good for one sidecar: make a new one")
            if token.expires <= now:
                raise RefusedError("this join token has expired", hint="make a new one with `touchmark ca join-token`")
            spent = await connection.execute(
                update(join_tokens)
                .where(join_tokens.c.token_id == token_id, join_tokens.c.spent.is_(None))
                .values(spent=now, instance=instance)
            )
            if spent.rowcount != 1:  # PostgreSQL: another replica was faster.
                raise RefusedError("this join token has been spent", hint="it is good for one sidecar: make a new one")
            grant = JoinGrant(
                workload=token.workload, addresses=token.addresses, labels=token.labels, instance=instance
            )
            await self._enter_sidecar(connection, grant, now)
            changed = bool(token.labels) and await self._vouch_for_labels(connection, token.workload, token.labels)
            await self._note_namespace(connection, token.workload.namespace)
        if changed:
            self._announce(token.workload.namespace)
        return grant

    async def enter_pod_sidecar(self, grant: JoinGrant, *, now: float) -> None:
        """Enter the sidecar of a pod that was authenticated; an earlier one of the same pod has no say from now on.

        One key a pod at a time: what was issued before is refused at the next resumption, and the stream of now ends
        the one of before.

        Raises:
            RefusedError: the instance's name belongs to a sidecar of another workload.
        """
        check_instance(grant.instance)
        async with self.database.writing() as connection:
            await self._enter_sidecar(connection, grant, now)
            changed = await self._vouch_for_labels(connection, grant.workload, grant.labels)
            await self._note_namespace(connection, grant.workload.namespace)
        if changed:
            self._announce(grant.workload.namespace)

    async def list_pod_sidecars(self, *, joined_before: float) -> dict[str, str]:
        """Return the instances of pods' sidecars that joined before then, with their pods' UIDs."""
        async with self.database.reading() as connection:
            rows = await connection.execute(
                select(sidecars.c.instance, sidecars.c.pod_uid).where(
                    sidecars.c.pod_uid != "", sidecars.c.joined < joined_before
                )
            )
            return {row.instance: row.pod_uid for row in rows}

    async def delete_pod_sidecars(self, pod_uids: Sequence[str]) -> int:
        """Forget the sidecars of pods that are gone, at most 500 at once; return how many there were.

        Nobody waits for them any longer. Their certificates stay in the ledger until they end.
        """
        async with self.database.writing() as connection:
            gone = list(
                await connection.scalars(
                    select(sidecars.c.instance).where(
                        sidecars.c.pod_uid != "", sidecars.c.pod_uid.in_(list(pod_uids)[:500])
                    )
                )
            )
            for table in (sidecars, sidecar_addresses, installed_namespaces):
                await connection.execute(delete(table).where(table.c.instance.in_(gone)))
            if gone:
                await self._count(connection, REGISTRATIONS)
        return len(gone)

    async def get_join_token(self, token_id: str) -> JoinTokenRecord | None:
        """Return one token."""
        async with self.database.reading() as connection:
            row = (await connection.execute(select(join_tokens).where(join_tokens.c.token_id == token_id))).first()
            return None if row is None else _join_token(row)

    async def list_join_tokens(self) -> list[JoinTokenRecord]:
        """Return every token, newest first."""
        async with self.database.reading() as connection:
            rows = await connection.execute(select(join_tokens).order_by(join_tokens.c.created.desc()))
            return [_join_token(row) for row in rows]

    async def list_open_tokens(self, root_pin: str, *, now: float) -> list[JoinTokenRecord]:
        """Return the tokens that pin this root and can still be spent, the first to expire first."""
        query = select(join_tokens).where(open_tokens(now), join_tokens.c.root_pin == root_pin)
        async with self.database.reading() as connection:
            rows = await connection.execute(query.order_by(join_tokens.c.expires))
            return [_join_token(row) for row in rows]

    async def prune_join_tokens(self, *, expired_before: float) -> int:
        """Forget tokens that expired long ago; return how many."""
        async with self.database.writing() as connection:
            return (
                await connection.execute(delete(join_tokens).where(join_tokens.c.expires < expired_before))
            ).rowcount

    async def register_sidecar(self, grant: JoinGrant, registration: Registration, *, now: float) -> SidecarRecord:
        """Note what a sidecar says of itself, and that its stream is open.

        An address that another sidecar holds changes hands when that one has the same workload or is no longer alive,
        or when the API server vouches for the new one: a cluster uses a pod's address again at once.

        Raises:
            RefusedError: the grant doesn't name an address, or is for another instance.
            ConflictError: a live sidecar of another workload holds an address.
            InputError: a value can't be.
        """
        if registration.instance != grant.instance:
            raise RefusedError("the certificate belongs to another sidecar instance")
        addresses = check_registration(registration, grant.addresses)
        async with self.database.writing() as connection:
            await self._take_addresses(connection, grant, addresses, now)
            changed = await connection.execute(
                update(sidecars)
                .where(sidecars.c.instance == grant.instance)
                .values(
                    tunnel_port=registration.tunnel_port,
                    version=registration.version,
                    capture=registration.capture,
                    last_seen=now,
                    connected=True,
                    replica=self.replica,
                )
            )
            if changed.rowcount != 1:
                raise RefusedError(f"no sidecar {grant.instance} has joined", hint="join with a new join token")
            (record,) = await _read_sidecars(connection, [grant.instance])
            await self._count(connection, REGISTRATIONS)
        return record

    async def mark_seen(self, instance: str, *, connected: bool, now: float) -> None:
        """Note that the sidecar's stream with this replica is open, or has closed.

        A stream that has moved to another replica is left alone: it is open there.
        """
        async with self.database.writing() as connection:
            changed = await connection.execute(
                update(sidecars)
                .where(sidecars.c.instance == instance, sidecars.c.replica.in_(("", self.replica)))
                .values(last_seen=now, connected=connected)
            )
            is_known = exists().where(sidecars.c.instance == instance)
            if changed.rowcount != 1 and not await connection.scalar(select(is_known)):
                raise NotFoundError(f"no sidecar {instance}")

    async def disconnect_all(self) -> None:
        """Note, at start, that no stream with this replica is open."""
        async with self.database.writing() as connection:
            await connection.execute(
                update(sidecars).where(sidecars.c.replica.in_(("", self.replica))).values(connected=False)
            )

    async def mark_bundle_installed(self, instance: str, sequence: int) -> None:
        """Note that the sidecar has installed the trust bundle of this sequence."""
        await self._update_sidecar(instance, installed_sequence=sequence)

    async def mark_namespace_installed(self, instance: str, namespace: str, version: int) -> None:
        """Note that the sidecar has installed this version of a namespace's state."""
        values = {"instance": instance, "namespace": namespace, "version": version}
        async with self.database.writing() as connection:
            await connection.execute(self.database.upsert(installed_namespaces, values))

    async def mark_subscribed(self, instance: str, namespace: str) -> None:
        """Note that the sidecar uses a namespace's state from now on: it is waited for, whichever replica asks."""
        values = {"instance": instance, "namespace": namespace, "version": 0}
        async with self.database.writing() as connection:
            await connection.execute(self.database.upsert(installed_namespaces, values, update=()))

    async def get_sidecar(self, instance: str) -> SidecarRecord | None:
        """Return one sidecar."""
        async with self.database.reading() as connection:
            return next(iter(await _read_sidecars(connection, [instance])), None)

    async def get_sidecar_at(self, address: str) -> SidecarRecord | None:
        """Return the sidecar that registered this IP address."""
        async with self.database.reading() as connection:
            instance = await connection.scalar(
                select(sidecar_addresses.c.instance).where(sidecar_addresses.c.address == normalise_address(address))
            )
            return next(iter(await _read_sidecars(connection, [instance])), None) if instance else None

    async def list_sidecars(self) -> list[SidecarRecord]:
        """Return every sidecar, by instance."""
        async with self.database.reading() as connection:
            return await _read_sidecars(connection, None)

    async def list_live_sidecars(self, *, now: float) -> list[SidecarRecord]:
        """Return those whose stream is open or that still hold an unexpired certificate."""
        async with self.database.reading() as connection:
            live = select(sidecars.c.instance).where(_is_live(now))
            return await _read_sidecars(connection, list(await connection.scalars(live)))

    async def delete_sidecars(self, *, silent_since: float, now: float) -> int:
        """Forget sidecars that are not alive and haven't been seen since then; return how many."""
        async with self.database.writing() as connection:
            gone = list(
                await connection.scalars(
                    select(sidecars.c.instance).where(~_is_live(now), sidecars.c.last_seen < silent_since).limit(500)
                )
            )
            for table in (sidecars, sidecar_addresses, installed_namespaces):
                await connection.execute(delete(table).where(table.c.instance.in_(gone)))
            if gone:
                await self._count(connection, REGISTRATIONS)
        return len(gone)

    async def _update_sidecar(self, instance: str, **values: Any) -> None:
        async with self.database.writing() as connection:
            changed = await connection.execute(update(sidecars).where(sidecars.c.instance == instance).values(**values))
            if changed.rowcount != 1:
                raise NotFoundError(f"no sidecar {instance}")

    async def _enter_sidecar(self, connection: AsyncConnection, grant: JoinGrant, now: float) -> None:
        workload, instance = grant.workload, grant.instance
        row = (await connection.execute(select(sidecars).where(sidecars.c.instance == instance))).first()
        if row is not None and (row.namespace, row.service_account) != (workload.namespace, workload.service_account):
            raise RefusedError(f"another workload's sidecar is called {instance}", hint="choose another instance name")
        values = {
            "instance": instance,
            "namespace": workload.namespace,
            "service_account": workload.service_account,
            "allowed_addresses": _json(grant.addresses),
            "labels": _json(grant.labels),
            "tunnel_port": 0,
            "version": "",
            "capture": "",
            "joined": now,
            "last_seen": now,
            "connected": False,
            "installed_sequence": 0,  # Its memory is new: it has installed nothing.
            "pod_uid": grant.pod_uid,
        }
        await connection.execute(self.database.upsert(sidecars, values))
        await connection.execute(delete(sidecar_addresses).where(sidecar_addresses.c.instance == instance))
        await connection.execute(delete(installed_namespaces).where(installed_namespaces.c.instance == instance))

    async def _take_addresses(
        self, connection: AsyncConnection, grant: JoinGrant, addresses: Sequence[str], now: float
    ) -> None:
        taken = await connection.execute(
            select(sidecar_addresses.c.address, sidecars.c.namespace, sidecars.c.service_account)
            .join(sidecars, sidecars.c.instance == sidecar_addresses.c.instance)
            .where(sidecar_addresses.c.address.in_(addresses), sidecars.c.instance != grant.instance, _is_live(now))
        )
        for row in taken if not grant.pod_uid else ():
            if (row.namespace, row.service_account) != (grant.workload.namespace, grant.workload.service_account):
                raise ConflictError(
                    f"{row.address} belongs to a live sidecar of {row.namespace}/{row.service_account}",
                    hint="stop that sidecar; the address is free once its certificates have expired",
                )
        await connection.execute(
            delete(sidecar_addresses).where(
                or_(sidecar_addresses.c.instance == grant.instance, sidecar_addresses.c.address.in_(addresses))
            )
        )
        for address in addresses:
            values = {"address": address, "instance": grant.instance}
            await connection.execute(self.database.upsert(sidecar_addresses, values))


def check_instance(instance: str) -> str:
    """Return the instance's name unchanged.

    Raises:
        InputError: it isn't 1 to 64 letters, digits, ``.``, ``_``, ``-``.
    """
    if not _INSTANCE.fullmatch(instance):
        raise InputError("not an instance name", hint="1 to 64 letters, digits, '.', '_' or '-'")
    return instance


def check_registration(registration: Registration, allowed: Sequence[str]) -> tuple[str, ...]:
    """Return the registration's addresses in their one spelling.

    Raises:
        RefusedError: an address that the grant doesn't name.
        InputError: a value can't be.
    """
    check_instance(registration.instance)
    if not 0 <= registration.tunnel_port <= 65535:
        raise InputError(f"not a port: {registration.tunnel_port}")
    if max(len(registration.version), len(registration.capture)) > _MAX_WORD_CHARACTERS:
        raise InputError(f"version and capture are at most {_MAX_WORD_CHARACTERS} characters")
    addresses = normalise_addresses(registration.addresses)
    foreign = sorted(set(addresses) - set(allowed))
    if foreign:
        raise RefusedError(
            f"the join token doesn't name {', '.join(foreign)}", hint="make one that does: `ca join-token --address`"
        )
    return addresses


def check_labels(labels: dict[str, str]) -> dict[str, str]:
    """Return the labels unchanged.

    Raises:
        InputError: there are too many, or one is empty or too long.
    """
    words = [*labels, *labels.values()]
    if len(labels) > MAX_LABELS or "" in labels or any(len(word) > MAX_LABEL_CHARACTERS for word in words):
        raise InputError(f"at most {MAX_LABELS} labels of at most {MAX_LABEL_CHARACTERS} characters, none unnamed")
    return labels


def normalise_address(text: str) -> str:
    """Return the IP address in its one spelling; a v4-mapped v6 address becomes v4.

    Raises:
        InputError: it isn't an IP address.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise InputError(f"not an IP address: {text[:80]!r}") from error
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def normalise_addresses(addresses: Iterable[str]) -> tuple[str, ...]:
    """Return the addresses in their one spelling, each once, in their order.

    Raises:
        InputError: one isn't an IP address, or there are more than ``MAX_ADDRESSES``.
    """
    known = tuple(dict.fromkeys(normalise_address(address) for address in addresses))
    if len(known) > MAX_ADDRESSES:
        raise InputError(f"at most {MAX_ADDRESSES} addresses a sidecar")
    return known


def open_tokens(now: float) -> ColumnElement[bool]:
    """The condition of tokens that can still be spent."""
    return and_(join_tokens.c.spent.is_(None), join_tokens.c.expires > now)


def _is_live(now: float) -> Any:
    holds_certificate = exists().where(certificates.c.instance == sidecars.c.instance, certificates.c.not_after > now)
    return or_(sidecars.c.connected, holds_certificate)


async def _read_active_root(connection: AsyncConnection) -> str:
    """Return the active root's pin and hold its row, so that it isn't retired meanwhile; empty: there is no root."""
    query = select(authorities.c.public_key_digest).where(
        authorities.c.kind == AuthorityKind.ROOT.value, authorities.c.phase == AuthorityPhase.ACTIVE.value
    )
    for _ in range(2):
        # PostgreSQL: a rotation's step at this very moment leaves no row that was active before and after it.
        if (pin := await connection.scalar(query.with_for_update(read=True))) is not None:
            return str(pin)
    return ""


async def _read_sidecars(connection: AsyncConnection, instances: Sequence[str] | None) -> list[SidecarRecord]:
    chosen, places, versions = select(sidecars), select(sidecar_addresses), select(installed_namespaces)
    if instances is not None and len(instances) == 1:  # The common case, without reading the whole tables.
        chosen = chosen.where(sidecars.c.instance == instances[0])
        places = places.where(sidecar_addresses.c.instance == instances[0])
        versions = versions.where(installed_namespaces.c.instance == instances[0])
    wanted = None if instances is None else frozenset(instances)
    addresses: dict[str, list[str]] = {}
    for row in await connection.execute(places.order_by(sidecar_addresses.c.address)):
        addresses.setdefault(row.instance, []).append(row.address)
    installed: dict[str, dict[str, int]] = {}
    for row in await connection.execute(versions):
        installed.setdefault(row.instance, {})[row.namespace] = row.version
    return [
        SidecarRecord(
            instance=row.instance,
            workload=Workload(namespace=row.namespace, service_account=row.service_account),
            allowed_addresses=_addresses.decode(row.allowed_addresses),
            addresses=tuple(addresses.get(row.instance, ())),
            labels=_labels.decode(row.labels),
            tunnel_port=row.tunnel_port,
            version=row.version,
            capture=row.capture,
            joined=row.joined,
            last_seen=row.last_seen,
            connected=row.connected,
            installed_sequence=row.installed_sequence,
            namespace_versions=installed.get(row.instance, {}),
            pod_uid=row.pod_uid,
        )
        for row in await connection.execute(chosen.order_by(sidecars.c.instance))
        if wanted is None or row.instance in wanted
    ]


def _join_token(row: Row[Any]) -> JoinTokenRecord:
    return JoinTokenRecord(
        token_id=row.token_id,
        workload=Workload(namespace=row.namespace, service_account=row.service_account),
        addresses=_addresses.decode(row.addresses),
        labels=_labels.decode(row.labels),
        created=row.created,
        expires=row.expires,
        spent=row.spent,
        instance=row.instance,
        root_pin=row.root_pin,
    )


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
