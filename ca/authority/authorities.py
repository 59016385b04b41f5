"""The current authorities, ready to sign, and the trust bundle that they make. I/O through the store.

One ``snapshot`` holds both, so that the active authority of one moment is never seen with the bundle of another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from ca.authority.founding import Authority, make_issuer, make_root, open_authority
from ca.authority.kek import KeyEncryptionKey
from ca.store.records import AuthorityKind, AuthorityRecord
from ca.store.store import Store
from shared.model.errors import UnavailableError
from shared.model.trust.bundle import AuthorityPhase, TrustBundle

_ACCEPTED = (AuthorityPhase.PREPARED, AuthorityPhase.ACTIVE, AuthorityPhase.OLD)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSigner:
    """Who signs the CA's own server certificate for clients that know one certain root."""

    issuer: Authority
    root: AuthorityRecord

    @property
    def chain(self) -> tuple[bytes, bytes]:
        """DER of the issuer and of its root."""
        return self.issuer.record.certificate, self.root.certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What one reading of the store gave.

    Attributes:
        root: of the active issuer.
        active: the issuer that signs.
        server_signers: one for each root of the bundle that has an issuer; the active one first, then the newest.
    """

    root: Authority
    active: Authority
    server_signers: tuple[ServerSigner, ...]
    bundle: TrustBundle
    records: tuple[AuthorityRecord, ...]


class Authorities:
    """Opens the store's authorities, makes the first ones, and follows changes."""

    def __init__(self, store: Store, kek: KeyEncryptionKey) -> None:
        self.store = store
        self.kek = kek
        self._snapshot: Snapshot | None = None
        self._listeners: list[Callable[[], None]] = []
        self._reading = asyncio.Lock()

    @classmethod
    async def open(cls, store: Store, kek: KeyEncryptionKey, *, now: float) -> Authorities:
        """Read the authorities; make root and issuing authority when the store has none.

        Raises:
            KeyEncryptionError: the store's keys were sealed with another key-encryption key.
            UnavailableError: the store fails, or holds no active authority.
        """
        if not await store.authorities.list_all():
            root = make_root(store.trust_domain, kek, now=now)
            issuer = make_issuer(store.trust_domain, root, kek, phase=AuthorityPhase.ACTIVE, now=now)
            # False where another replica was faster: its authorities are read below.
            await store.authorities.found(root.record, issuer.record, now=now)
        authorities = cls(store, kek)
        await authorities.reload()
        return authorities

    @property
    def snapshot(self) -> Snapshot:
        """The last reading."""
        if self._snapshot is None:
            raise UnavailableError("the authorities haven't been read yet")
        return self._snapshot

    @property
    def active(self) -> Authority:
        """The authority that signs now."""
        return self.snapshot.active

    @property
    def root_pin(self) -> str:
        """The SHA-256 of the active root's public key, as new join tokens pin it."""
        return self.snapshot.root.record.public_key_digest

    @property
    def accepted_pins(self) -> frozenset[str]:
        """The same of every root in the bundle: join tokens that pin one of them hold."""
        return frozenset(
            r.public_key_digest for r in self.snapshot.records if r.kind is AuthorityKind.ROOT and r.phase in _ACCEPTED
        )

    def bundle(self) -> TrustBundle:
        """Return the current trust bundle."""
        return self.snapshot.bundle

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call the listener after each reading that changed the bundle or the active authority."""
        self._listeners.append(listener)

    async def reload(self) -> Snapshot:
        """Read the store again.

        Raises:
            KeyEncryptionError: a key can't be unsealed.
            UnavailableError: the store fails, or holds no active authority.
        """
        async with self._reading:
            # The sequence first: a change in between makes the bundle newer than its number, and is read again.
            sequence = await self.store.authorities.get_sequence()
            records = tuple(await self.store.authorities.list_all())
            leaves = await self.store.evictions.list_distrusted()
            last = self._snapshot
            if last is not None and last.records == records and last.bundle.sequence == sequence:
                return last
            self._snapshot = snapshot = self._assemble(records, sequence, leaves)
        if last is None or (last.bundle, last.active.authority_id) != (snapshot.bundle, snapshot.active.authority_id):
            for listener in self._listeners:
                listener()
        return snapshot

    def _assemble(self, records: tuple[AuthorityRecord, ...], sequence: int, leaves: tuple[str, ...]) -> Snapshot:
        active = [r for r in records if r.kind is AuthorityKind.ISSUING and r.phase is AuthorityPhase.ACTIVE]
        roots = [r for r in records if r.kind is AuthorityKind.ROOT and r.phase in _ACCEPTED]
        root = next((r for r in roots if active and r.authority_id == active[0].root_id), None)
        if len(active) != 1 or root is None:
            raise UnavailableError(
                "the store holds no active issuing authority with its root", hint="restore the store from a backup"
            )
        bundle = TrustBundle(
            trust_domain=self.store.trust_domain,
            sequence=sequence,
            roots=tuple(r.certificate for r in roots),
            issuers=tuple(r.certificate for r in records if r.kind is AuthorityKind.ISSUING and r.phase in _ACCEPTED),
            distrusted=(*(r.public_key_digest for r in records if r.is_tainted), *leaves),
        )
        signing = open_authority(active[0], self.kek)
        others = sorted((r for r in roots if r is not root), key=lambda r: r.created, reverse=True)
        return Snapshot(
            root=open_authority(root, self.kek),
            active=signing,
            server_signers=(
                ServerSigner(issuer=signing, root=root),
                *(signer for other in others if (signer := self._find_signer(other, records)) is not None),
            ),
            bundle=bundle,
            records=records,
        )

    def _find_signer(self, root: AuthorityRecord, records: tuple[AuthorityRecord, ...]) -> ServerSigner | None:
        below = [
            r
            for r in records
            if r.kind is AuthorityKind.ISSUING and r.root_id == root.authority_id and r.phase in _ACCEPTED
        ]
        if not below:
            return None
        return ServerSigner(issuer=open_authority(max(below, key=lambda r: r.created), self.kek), root=root)
