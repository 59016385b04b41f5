"""Authentication by the sidecar's own certificate, against the bundle *and* the ledger. I/O through the store."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from cryptography import x509

from ca.authority.authorities import Authorities
from ca.store.records import BACKDATED_S, AuthorityRecord, CertificateRecord, JoinGrant
from ca.store.store import Store
from shared.model.errors import RefusedError, VerificationError
from shared.model.identity.identity import Identity, IdentityKind
from shared.model.trust.bundle import TrustBundle
from shared.model.trust.certificate import BundleVerifier, EvictedError, read_instance

_log = structlog.get_logger("touchmark.ca")


class OlderKeyError(RefusedError):
    """A sidecar shows the certificate of a key from before it joined anew; it, or another one, has a newer one."""

    def __init__(self, instance: str) -> None:
        super().__init__("this sidecar has joined anew since", hint="only its newest key speaks for it")
        self.instance = instance


class CertificateAuthentication:
    """Turns sidecars' certificates into grants."""

    def __init__(self, *, store: Store, authorities: Authorities) -> None:
        self._store = store
        self._authorities = authorities
        self._verifier = _make_verifier(authorities.bundle())
        self._issuers = _read_issuers(self._verifier.bundle)

    @property
    def verifier(self) -> BundleVerifier:
        """The verifier of the current trust bundle."""
        bundle = self._authorities.bundle()
        if self._verifier.bundle != bundle:
            self._verifier = _make_verifier(bundle)
            self._issuers = _read_issuers(bundle)
        return self._verifier

    async def authenticate(self, leaf: x509.Certificate, *, claimed: str, now: float) -> JoinGrant:
        """Return what the holder of this certificate was granted when it joined.

        After a backup took the store's place the ledger lacks what was issued since it was made. For a day a
        certificate from that time counts nevertheless, and is entered: its chain is verified as always, and the sidecar
        must be one of its workload that the store knows.

        Arguments:
            claimed: which instance the peer says that it is; believed only in that case.

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
        try:
            peer = verifier.verify_peer([leaf, *self._issuers.get(leaf.issuer, ())], now=now)
        except EvictedError as error:  # It is told to that sidecar, for which "the peer" is somebody else.
            raise VerificationError(
                "this sidecar was evicted",
                reason=error.reason,
                hint="join with a join token that is made from now on; in Kubernetes delete the pod",
            ) from error
        if peer.identity.kind is not IdentityKind.SIDECAR:
            raise RefusedError("a program's certificate doesn't speak for its sidecar")
        line, sidecar = await self._store.enrolment.find_by_certificate(peer.serial)
        if line is None and await self._enter_missing(leaf, peer.identity, claimed, now):
            line, sidecar = await self._store.enrolment.find_by_certificate(peer.serial)
        if line is None or line.identity != peer.identity:
            raise RefusedError("the ledger doesn't hold this certificate", hint="join with a new join token")
        if sidecar is None or sidecar.grant.workload != peer.identity.workload:
            raise RefusedError("no such sidecar has joined", hint="join with a new join token")
        if line.issued < sidecar.joined:
            raise OlderKeyError(line.instance)
        return sidecar.grant

    async def _enter_missing(self, leaf: x509.Certificate, identity: Identity, claimed: str, now: float) -> bool:
        """Enter a verified certificate that a restored ledger lacks; False: it should have been there."""
        restoration = await self._store.authorities.get_restoration()
        if restoration is None or not restoration.is_ledger_short(now):
            return False
        if read_instance(leaf) != claimed:  # Nobody takes a neighbour's name.
            return False
        issued = leaf.not_valid_before_utc.timestamp() + BACKDATED_S
        # A second, because certificates know no fractions. What is older than the backup is in it, or was never issued.
        if not restoration.taken - 1 <= issued <= restoration.restored + 1:
            return False
        sidecar = await self._store.sidecars.get(claimed)
        issuer = find_issuer(leaf, await self._store.authorities.list_all())
        if sidecar is None or sidecar.workload != identity.workload or issuer is None:
            return False
        line = CertificateRecord(
            serial=leaf.serial_number,
            identity=identity,
            authority_id=issuer.authority_id,
            instance=claimed,
            issued=issued,
            not_before=leaf.not_valid_before_utc.timestamp(),
            not_after=leaf.not_valid_after_utc.timestamp(),
        )
        await self._store.ledger.record(line)
        _log.info("certificate_entered_after_restore", instance=claimed, serial=f"{leaf.serial_number:x}")
        return True


def _make_verifier(bundle: TrustBundle) -> BundleVerifier:
    """A sidecar comes once with each certificate, or a few times: its chain isn't worth its memory."""
    return BundleVerifier(bundle, most_remembered=0)


def _read_issuers(bundle: TrustBundle) -> dict[x509.Name, list[x509.Certificate]]:
    issuers: dict[x509.Name, list[x509.Certificate]] = {}
    for certificate in map(x509.load_der_x509_certificate, bundle.issuers):
        issuers.setdefault(certificate.subject, []).append(certificate)
    return issuers


def find_issuer(leaf: x509.Certificate, records: Sequence[AuthorityRecord]) -> AuthorityRecord | None:
    """Return the authority of a verified certificate: each has its own subject."""
    name = leaf.issuer.rfc4514_string()
    return next((record for record in records if record.subject == name), None)
