"""Renewal keys in the store: of each only the digest of its public part, and which one took its place. I/O.

Belongs here: which key counts, until when, and what a key means that was used before. Doesn't: proof that a peer holds
one (``ca/authenticate/renewal_key.py``), or what follows from a stolen one (``ca/api/stream/renewing.py``).
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import bindparam, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.store.engine.database import Database
from ca.store.engine.prepared import Prepared
from ca.store.engine.pruning import delete_before
from ca.store.renewal.tables import renewal_keys
from shared.model.errors import InputError, RefusedError, UnavailableError

LEAST_INTERVAL_S: Final = 5.0
# A key that is used again is noticed as long as it is known, so that none of the last 30 days is forgotten for another.
# What bounds their number is how soon one may follow another: a sidecar that something starts again and again waits
# longer, and is never shut out.
MAX_PROMPT_A_DAY: Final = 200
LONG_INTERVAL_S: Final = 120.0
_DAY_S: Final = 86_400.0
_OF_INSTANCE: Final = renewal_keys.c.instance == bindparam("instance")
_UNSPENT: Final = Prepared(select(renewal_keys.c.digest).where(_OF_INSTANCE, renewal_keys.c.spent.is_(None)).limit(1))
_FORGET: Final = Prepared(delete(renewal_keys).where(_OF_INSTANCE))
_HINT: Final = "make a new one with `touchmark ca join-token NAMESPACE/SERVICE-ACCOUNT` and start the sidecar with it"


class RenewalRefusedError(RefusedError):
    """A sidecar can't come back by its renewal key; ``reason`` says why."""

    def __init__(self, message: str, *, reason: str, hint: str = f"it needs a join token: {_HINT}") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class RenewalReusedError(RenewalRefusedError):
    """A renewal key was used that had been used before, for another successor: two sidecars hold it."""

    def __init__(self, instance: str) -> None:
        super().__init__(
            f"the renewal key of {instance[:100]} was used before: there is a copy of it, and neither is let in",
            reason="renewal_reused",
            hint=f"find out who read its state directory; then {_HINT}",
        )
        self.instance = instance


class RenewalKeys:
    """By which keys sidecars outside Kubernetes come back."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, connection: AsyncConnection, instance: str, digest: bytes | None, *, now: float) -> None:
        """Within the transaction of an enrolment: this key counts from now on, and no former one of the sidecar.

        Arguments:
            digest: SHA-256 of the public key, whose possession was proven; None: it has none.

        Raises:
            InputError: the key is another sidecar's.
        """
        await _FORGET.on(connection, instance=instance)
        if digest is not None:
            await _add(connection, instance, digest, now)

    async def check(self, digest: bytes, *, instance: str) -> None:
        """Check that there is or was such a key of this sidecar, before anything dearer is done for it.

        Raises:
            RenewalRefusedError: there wasn't.
        """
        query = select(renewal_keys.c.instance).where(renewal_keys.c.digest == digest.hex())
        if await self._database.read(lambda connection: connection.scalar(query)) != instance:
            raise refuse_unknown()

    async def has(self, instance: str) -> bool:
        """Return whether a sidecar has a key that wasn't used yet."""
        return await self._database.read(lambda connection: has_unspent(connection, instance))

    async def spend(
        self,
        connection: AsyncConnection,
        digest: bytes,
        following: bytes,
        *,
        instance: str,
        is_answered: bool,
        ended: float,
        grace_s: float,
        now: float,
    ) -> None:
        """Use a key up within a greater transaction.

        The same key with the same successor may be used again while the CA has heard nothing on the stream that came
        of it: the answer may have been lost.

        Arguments:
            digest, following: SHA-256 of the public keys: of the one that is used, and of the one that takes its place.
            is_answered: the CA has heard from the sidecar since it last joined.
            ended: when its last certificate ended or will, in seconds since the epoch.
            grace_s: for how long after that it may come back.

        Raises:
            RenewalRefusedError: it isn't this sidecar's, or the sidecar was away for too long.
            RenewalReusedError: it was used before, for another successor.
            UnavailableError: the key has only just been made; after many uses within a day: not long ago.
            InputError: the successor isn't new.
        """
        query = select(renewal_keys).where(renewal_keys.c.digest == digest.hex()).with_for_update()
        row = (await connection.execute(query)).first()
        if row is None or row.instance != instance:
            raise refuse_unknown()
        if row.spent is not None:
            unused = select(renewal_keys.c.digest).where(
                renewal_keys.c.digest == row.following, renewal_keys.c.spent.is_(None)
            )
            is_repeated = row.following == following.hex() and not is_answered
            if not is_repeated or (await connection.execute(unused)).first() is None:
                raise RenewalReusedError(instance)
        elif row.made <= now < row.made + LEAST_INTERVAL_S:
            raise UnavailableError("this renewal key has only just been made")
        if now > ended + grace_s:
            raise RenewalRefusedError(
                f"this sidecar's last certificate ended {(now - ended) / 86_400:.1f} days ago,"
                f" and a renewal key counts for {grace_s / 86_400:g} days",
                reason="renewal_too_late",
            )
        if row.spent is not None:
            return
        if row.made <= now < row.made + LONG_INTERVAL_S:
            query = select(func.count()).where(renewal_keys.c.instance == instance, renewal_keys.c.spent > now - _DAY_S)
            if (times := int(await connection.scalar(query) or 0)) >= MAX_PROMPT_A_DAY:
                wait_s = row.made + LONG_INTERVAL_S - now
                raise UnavailableError(
                    f"this sidecar has come back {times} times within a day: again in {wait_s:.0f} s",
                    hint="find out what starts it again and again",
                )
        await _add(connection, instance, following, now)
        used = await connection.execute(
            update(renewal_keys)
            .where(renewal_keys.c.digest == row.digest, renewal_keys.c.spent.is_(None))
            .values(spent=now, following=following.hex())
        )
        if used.rowcount != 1:  # Whatever the database's locks are worth: a key is used once.
            raise RenewalReusedError(instance)

    async def prune(self, *, spent_before: float) -> int:
        """Forget some keys that were used long ago; return how many: call again while it's more than 0."""
        return await delete_before(self._database, renewal_keys, renewal_keys.c.spent, spent_before)


async def has_unspent(connection: AsyncConnection, instance: str) -> bool:
    """Return within a greater transaction whether a sidecar has a key that wasn't used yet."""
    return (await _UNSPENT.on(connection, instance=instance)).first() is not None


async def _add(connection: AsyncConnection, instance: str, digest: bytes, now: float) -> None:
    known = select(renewal_keys.c.instance).where(renewal_keys.c.digest == digest.hex())
    if (await connection.execute(known)).first() is not None:
        raise InputError("the renewal key isn't a new one")
    await connection.execute(
        insert(renewal_keys).values(digest=digest.hex(), instance=instance, made=now, spent=None, following="")
    )


def refuse_unknown() -> RenewalRefusedError:
    """Make the error of a key that isn't, or is no longer, this sidecar's."""
    return RenewalRefusedError(
        "the CA doesn't know this renewal key: the sidecar joined anew, was forgotten, or the CA was restored",
        reason="renewal_unknown",
    )
