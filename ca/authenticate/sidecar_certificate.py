"""Authentication by the sidecar's own certificate, against the bundle *and* the ledger. I/O through the store."""

from __future__ import annotations

from cryptography import x509

from ca.authority.authorities import Authorities
from ca.store.records import JoinGrant
from ca.store.store import Store
from shared.model.errors import RefusedError
from shared.model.identity.identity import IdentityKind
from shared.model.trust.certificate import BundleVerifier


class CertificateAuthentication:
    """Turns sidecars' certificates into grants."""

    def __init__(self, *, store: Store, authorities: Authorities) -> None:
        self._store = store
        self._authorities = authorities
        self._verifier = BundleVerifier(authorities.bundle())

    @property
    def verifier(self) -> BundleVerifier:
        """The verifier of the current trust bundle."""
        bundle = self._authorities.bundle()
        if self._verifier.bundle != bundle:
            self._verifier = BundleVerifier(bundle)
        return self._verifier

    async def authenticate(self, leaf: x509.Certificate, *, now: float) -> JoinGrant:
        """Return what the holder of this certificate was granted when it joined.

        Raises:
            RefusedError: it isn't a sidecar's own certificate, the ledger doesn't hold it, or its sidecar is unknown.
            VerificationError: its chain doesn't hold now.

        What this does *not* verify: that the peer holds the key (the TLS handshake does).
        """
        if not self._store.database.is_sqlite:
            # It may come from another replica, with a certificate that this one's bundle doesn't know yet.
            await self._authorities.reload()
        verifier = self.verifier
        # The issuer is taken from our own bundle, not from the peer: each authority has its own subject.
        issuers = [x509.load_der_x509_certificate(der) for der in verifier.bundle.issuers]
        peer = verifier.verify_peer([leaf, *(each for each in issuers if each.subject == leaf.issuer)], now=now)
        if peer.identity.kind is not IdentityKind.SIDECAR:
            raise RefusedError("a program's certificate doesn't speak for its sidecar")
        line = await self._store.ledger.get(peer.serial)
        if line is None or line.identity != peer.identity:
            raise RefusedError("the ledger doesn't hold this certificate", hint="join with a new join token")
        sidecar = await self._store.sidecars.get(line.instance)
        if sidecar is None or sidecar.workload != peer.identity.workload:
            raise RefusedError("no such sidecar has joined", hint="join with a new join token")
        if line.issued < sidecar.joined:
            raise RefusedError("this sidecar has joined anew since", hint="only its newest key speaks for it")
        return sidecar.grant
