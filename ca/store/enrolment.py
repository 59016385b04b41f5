"""Enrolment in the store, and coming again: each one transaction over several parts. I/O through ``Database``."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from ca.store.engine.database import Database
from ca.store.evictions import Evictions, check_not_evicted
from ca.store.join_tokens import JoinTokens
from ca.store.ledger import read_line
from ca.store.namespaces import Namespaces
from ca.store.records import CertificateRecord, Joined, JoinGrant, SidecarRecord
from ca.store.renewal.renewal_keys import RenewalKeys, has_unspent, refuse_unknown
from ca.store.sidecars import Sidecars, read_certificates_end, read_joined, read_sidecar
from shared.model.wire.messages import Registration
from shared.model.wire.registration import check_instance

# What was granted, the sidecar, and whether its workload's labels have changed.
_Entered = tuple[JoinGrant, SidecarRecord, bool]


class Enrolment:
    """The steps of an enrolment that hold together or not at all."""

    def __init__(
        self,
        database: Database,
        *,
        join_tokens: JoinTokens,
        sidecars: Sidecars,
        namespaces: Namespaces,
        evictions: Evictions,
        renewal_keys: RenewalKeys,
    ) -> None:
        self._database = database
        self._join_tokens = join_tokens
        self._sidecars = sidecars
        self._namespaces = namespaces
        self._evictions = evictions
        self._renewal_keys = renewal_keys

    async def enter_by_token(
        self,
        *,
        token_id: str,
        secret: str,
        key_digest: bytes,
        registration: Registration,
        now: float,
        replaces: float | None = None,
        renewal_digest: bytes | None = None,
    ) -> tuple[JoinGrant, SidecarRecord]:
        """Spend a token, enter its sidecar and register it: of many keys that try at once exactly one succeeds.

        The key that succeeded may repeat it: its answer may have been lost.

        Arguments:
            key_digest: SHA-256 of the public key that asks, whose possession was proven.
            replaces: as in ``Sidecars.enter``.
            renewal_digest: SHA-256 of the public key by which it may come back; None: there is none.

        Raises:
            SecondSidecarError: a sidecar of this name is connected.
            RefusedError: the token is unknown, its secret is wrong (the same message for both), it has expired or
                another key has spent it; it doesn't name an address; or the instance's name belongs to a sidecar of
                another workload. Only success spends it.
            ConflictError: a live sidecar of another workload holds an address.
            InputError: a value of the registration can't be.
        """
        instance = check_instance(registration.instance)

        async def enter(connection: AsyncConnection) -> _Entered:
            grant = await self._join_tokens.spend(
                connection, token_id, secret, instance=instance, key_digest=key_digest, now=now
            )
            await self._evictions.readmit(connection, grant)
            await self._sidecars.enter(connection, grant, now, key_digest=key_digest, replaces=replaces)
            await self._renewal_keys.begin(connection, instance, renewal_digest, now=now)
            return grant, *await self._enter(connection, grant, registration, now)

        grant, record, _ = await self._database.write(enter, on_commit=self._announce)
        return grant, record

    async def enter_by_renewal(
        self,
        *,
        renewal_digest: bytes,
        following_digest: bytes,
        key_digest: bytes,
        registration: Registration,
        grace_s: float,
        now: float,
        replaces: float | None = None,
    ) -> tuple[JoinGrant, SidecarRecord]:
        """Use up a renewal key, enter its sidecar and register it; its answer may be asked for again.

        Arguments:
            renewal_digest, following_digest, grace_s: as in ``RenewalKeys.spend``.
            key_digest, replaces: as in ``Sidecars.enter``.

        Raises:
            SecondSidecarError: a sidecar of this name is connected.
            RefusedError, UnavailableError, InputError: as ``RenewalKeys.spend`` and ``enter_by_token``.
            ConflictError: a live sidecar of another workload holds an address.
        """
        instance = check_instance(registration.instance)

        async def enter(connection: AsyncConnection) -> _Entered:
            await check_not_evicted(connection, instance)
            sidecar = await read_sidecar(connection, instance)
            if sidecar is None or sidecar.pod_uid:
                raise refuse_unknown()
            grant = sidecar.grant
            await self._renewal_keys.spend(
                connection,
                renewal_digest,
                following_digest,
                instance=instance,
                is_answered=sidecar.installed_sequence > 0,
                ended=await read_certificates_end(connection, sidecar),
                grace_s=grace_s,
                now=now,
            )
            await self._sidecars.enter(connection, grant, now, key_digest=key_digest, replaces=replaces)
            return grant, *await self._enter(connection, grant, registration, now)

        grant, record, _ = await self._database.write(enter, on_commit=self._announce)
        return grant, record

    async def enter_pod(
        self,
        grant: JoinGrant,
        registration: Registration,
        *,
        key_digest: bytes,
        now: float,
        replaces: float | None = None,
    ) -> SidecarRecord:
        """Enter and register the sidecar of a pod that was authenticated; an earlier one has no say from now on.

        One key per pod at a time: what was issued before is refused at the next resumption, and the new stream ends the
        one before.

        Arguments:
            key_digest, replaces: as in ``Sidecars.enter``.

        Raises:
            SecondSidecarError: the pod's sidecar is connected.
            RefusedError: the instance's name belongs to a sidecar of another workload, or the grant doesn't name an
                address.
            InputError: a value of the registration can't be.
        """
        check_instance(grant.instance)

        async def enter(connection: AsyncConnection) -> _Entered:
            await self._evictions.readmit(connection, grant)
            await self._sidecars.enter(connection, grant, now, key_digest=key_digest, replaces=replaces)
            await self._renewal_keys.begin(connection, grant.instance, None, now=now)
            return grant, *await self._enter(connection, grant, registration, now)

        _, record, _ = await self._database.write(enter, on_commit=self._announce)
        return record

    async def find_by_certificate(self, serial: int) -> tuple[CertificateRecord | None, Joined | None]:
        """Return the line of a certificate in the ledger, and of the sidecar that it was issued to when it joined."""

        async def find(connection: AsyncConnection) -> tuple[CertificateRecord | None, Joined | None]:
            line = await read_line(connection, serial)
            return line, None if line is None else await read_joined(connection, line.instance)

        return await self._database.read(find)

    async def come_again(
        self, grant: JoinGrant, registration: Registration, *, now: float
    ) -> tuple[SidecarRecord, bool]:
        """Register a sidecar that has come again by its certificate; return it, and whether it has a renewal key.

        Raises:
            RefusedError, ConflictError, InputError: as ``Sidecars.register``.
        """

        async def register(connection: AsyncConnection) -> tuple[SidecarRecord, bool]:
            record = await self._sidecars.note_registration(connection, grant, registration, now)
            # A pod's comes back by its token.
            return record, not grant.pod_uid and await has_unspent(connection, grant.instance)

        return await self._database.write(register)

    def _announce(self, entered: _Entered) -> None:
        """Tell of vouched labels that are new: they are committed, whether or not the sidecar still waits."""
        grant, _, is_changed = entered
        if is_changed:
            self._namespaces.announce(grant.workload.namespace)

    async def _enter(
        self, connection: AsyncConnection, grant: JoinGrant, registration: Registration, now: float
    ) -> tuple[SidecarRecord, bool]:
        """Return the sidecar that has been entered, and whether its namespace's state changed."""
        # Without labels a token says nothing of the workload's; a pod's grant says all of them.
        says_labels = bool(grant.labels or grant.pod_uid)
        changed = says_labels and await self._namespaces.vouch_for_labels(connection, grant.workload, grant.labels)
        await self._namespaces.list_from_now_on(connection, grant.workload.namespace)
        return await self._sidecars.note_registration(connection, grant, registration, now), changed
