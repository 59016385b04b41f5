"""Join tokens in the store: made, spent once, listed, forgotten. I/O through ``Database``."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Row, and_, bindparam, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.store.audit.audit_log import append_audit
from ca.store.engine.database import Database
from ca.store.engine.prepared import Prepared, prepare_insert, prepare_update
from ca.store.engine.pruning import delete_before
from ca.store.records import AuthorityKind, JoinGrant, JoinTokenRecord
from ca.store.tables import authorities, join_tokens
from shared.model.errors import ConflictError, InputError, NotFoundError, RefusedError
from shared.model.identity.identity import Workload
from shared.model.trust.bundle import AuthorityPhase
from shared.model.wire.registration import check_labels, normalise_addresses

# A sidecar whose welcome was lost asks again within seconds; a CA that is down may take minutes.
REPEATABLE_S: Final = 600.0
_BY_ID: Final = Prepared(select(join_tokens).where(join_tokens.c.token_id == bindparam("token_id")))
_SPEND: Final = prepare_update(
    join_tokens,
    ("spent", "instance", "spent_by"),
    join_tokens.c.token_id == bindparam("of_token"),
    join_tokens.c.spent.is_(None),
)
_INSERT: Final = prepare_insert(join_tokens)
_ACTIVE_ROOT: Final = Prepared(
    select(authorities.c.public_key_digest)
    .where(authorities.c.kind == AuthorityKind.ROOT.value, authorities.c.phase == AuthorityPhase.ACTIVE.value)
    .with_for_update(read=True)
)
_addresses: Final = msgspec.json.Decoder(tuple[str, ...])
_labels: Final = msgspec.json.Decoder(dict[str, str])


class JoinTokens:
    """Who may join outside Kubernetes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
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

        async def create(connection: AsyncConnection) -> JoinTokenRecord:
            record = JoinTokenRecord(
                token_id=secrets.token_hex(8),
                workload=workload,
                addresses=spelled,
                labels=checked,
                created=now,
                expires=expires,
                root_pin=await _read_active_root(connection),
            )
            await _INSERT.on(
                connection,
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
                spent_by=None,
            )
            await append_audit(
                self._database, connection, "join-token.create", record.token_id, after=_describe(record)
            )
            return record

        return await self._database.write(create), secret

    async def check(self, token_id: str, secret: str) -> None:
        """Check that there is such a token, of whatever age, and that its secret is right; in constant time.

        Raises:
            RefusedError: there isn't, or it is wrong (the same message for both).
        """

        async def check(connection: AsyncConnection) -> None:
            _check_secret((await _BY_ID.on(connection, token_id=token_id)).first(), secret)

        await self._database.read(check)

    async def spend(
        self, connection: AsyncConnection, token_id: str, secret: str, *, instance: str, key_digest: bytes, now: float
    ) -> JoinGrant:
        """Spend a token within a greater transaction; return what it grants.

        The key that spent it gets the same again, for the same instance, for as long as the answer may have been lost.

        Arguments:
            key_digest: SHA-256 of the public key (SubjectPublicKeyInfo) that asks, whose possession was proven.

        Raises:
            RefusedError: it is unknown, its secret is wrong (the same message for both), it has expired, or another key
                has spent it.
        """
        row = _check_secret((await _BY_ID.on(connection, token_id=token_id)).first(), secret)
        token = _join_token(row)
        grant = JoinGrant(
            workload=token.workload,
            addresses=token.addresses,
            labels=token.labels,
            instance=instance,
            granted=token.created,
        )
        if token.spent is not None:
            is_same = token.instance == instance and hmac.compare_digest(row.spent_by or b"", key_digest)
            if is_same and now < max(token.expires, token.spent + REPEATABLE_S):
                return grant
            raise RefusedError("this join token has been spent", hint="it is good for one sidecar: make a new one")
        if token.expires <= now:
            raise RefusedError("this join token has expired", hint="make a new one with `touchmark ca join-token`")
        spent = await _SPEND.on(connection, of_token=token_id, spent=now, instance=instance, spent_by=key_digest)
        if spent.rowcount != 1:  # PostgreSQL: another replica was faster.
            raise RefusedError("this join token has been spent", hint="it is good for one sidecar: make a new one")
        return grant

    async def get(self, token_id: str) -> JoinTokenRecord | None:
        """Return one token."""
        async with self._database.reading() as connection:
            row = (await connection.execute(select(join_tokens).where(join_tokens.c.token_id == token_id))).first()
            return None if row is None else _join_token(row)

    async def revoke(self, token_id: str, *, now: float) -> JoinTokenRecord:
        """Make an open token worthless, and return it.

        Raises:
            NotFoundError: there is no such token.
            ConflictError: it was spent or has expired.
        """
        async with self._database.writing() as connection:
            # Deleted, not marked: what was never spent isn't evidence of anything but its audit line.
            gone = await connection.execute(
                delete(join_tokens).where(join_tokens.c.token_id == token_id, open_tokens(now)).returning(join_tokens)
            )
            if (row := gone.first()) is None:
                known = select(join_tokens).where(join_tokens.c.token_id == token_id)
                row = (await connection.execute(known)).first()
                if row is None:
                    raise NotFoundError(
                        f"no join token {token_id[:64]}", hint="`touchmark ca join-token list` shows all"
                    )
                if row.spent is None:
                    raise ConflictError(f"the join token {token_id} has expired")
                raise ConflictError(
                    f"the join token {token_id} was spent by the sidecar {row.instance}",
                    hint=f"to lock that sidecar out: `touchmark ca evict {row.instance}`",
                )
            token = _join_token(row)
            await append_audit(self._database, connection, "join-token.revoke", token_id, before=_describe(token))
        return token

    async def list_all(self) -> list[JoinTokenRecord]:
        """Return every token, newest first."""
        async with self._database.reading() as connection:
            rows = await connection.execute(select(join_tokens).order_by(join_tokens.c.created.desc()))
            return [_join_token(row) for row in rows]

    async def list_open(self, root_pin: str, *, now: float) -> list[JoinTokenRecord]:
        """Return the tokens that pin this root and can still be spent, the first to expire first."""
        query = select(join_tokens).where(open_tokens(now), join_tokens.c.root_pin == root_pin)
        async with self._database.reading() as connection:
            rows = await connection.execute(query.order_by(join_tokens.c.expires))
            return [_join_token(row) for row in rows]

    async def prune(self, *, expired_before: float) -> int:
        """Forget some tokens that expired long ago; return how many: call again while it's more than 0."""
        return await delete_before(self._database, join_tokens, join_tokens.c.expires, expired_before)


async def revoke_open(connection: AsyncConnection, workload: Workload, *, now: float) -> tuple[str, ...]:
    """Make a workload's open tokens worthless within a greater transaction; return their IDs."""
    gone = await connection.scalars(
        delete(join_tokens)
        .where(
            open_tokens(now),
            join_tokens.c.namespace == workload.namespace,
            join_tokens.c.service_account == workload.service_account,
        )
        .returning(join_tokens.c.token_id)
    )
    return tuple(sorted(gone))


def open_tokens(now: float) -> ColumnElement[bool]:
    """The condition of tokens that can still be spent."""
    return and_(join_tokens.c.spent.is_(None), join_tokens.c.expires > now)


async def _read_active_root(connection: AsyncConnection) -> str:
    """Return the active root's pin and hold its row, so that it isn't retired first; empty: there is no root."""
    for _ in range(2):
        # PostgreSQL: a rotation's step at this very moment leaves no row that was active before and after it.
        if (pin := (await _ACTIVE_ROOT.on(connection)).scalar()) is not None:
            return str(pin)
    return ""


def _describe(token: JoinTokenRecord) -> object:
    """Return what the audit log says of a token: nothing of its secret."""
    return {
        "workload": str(token.workload),
        "addresses": token.addresses,
        "labels": token.labels,
        "expires": token.expires,
    }


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


def _check_secret(row: Row[Any] | None, secret: str) -> Row[Any]:
    """Return a token's row if the secret is its own.

    Raises:
        RefusedError: it isn't, or there is no such token.
    """
    expected = row.secret_digest if row is not None else bytes(32)
    if not hmac.compare_digest(_digest(secret), expected) or row is None:
        raise RefusedError("no such join token", hint="make a new one with `touchmark ca join-token`")
    return row


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
