"""One credential, and the request that leads to it. Draws keys; no I/O else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from shared.model.errors import RefusedError, TouchmarkError
from shared.model.identity.identity import Identity
from shared.model.policy.reasons import Reason
from shared.model.trust.certificate import BundleVerifier


class CredentialError(TouchmarkError):
    """A credential can't be had; ``reason`` is what a decision records."""

    code = "no_credential"
    reason: Reason

    def __init__(self, message: str, *, reason: Reason) -> None:
        super().__init__(message)
        self.reason = reason


class ClockError(CredentialError):
    """What the CA has just issued isn't valid by this machine's clock."""

    code = "clock_differs"


class IssuanceRefusedError(RefusedError):
    """The CA refused a certificate; ``reason`` is its code: a ``Reason`` where it is one."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Credential:
    """Key and chain of one identity.

    Attributes:
        chain: DER certificates, leaf first, without the root.
        generation: unique in this process and growing: a renewed credential has a higher one.
        not_before, not_after: when the leaf is valid, in seconds since the epoch.
        issuer: the issuing authority's common name.
    """

    identity: Identity
    chain: tuple[bytes, ...]
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    generation: int
    not_before: float
    not_after: float
    issuer: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KeyRequest:
    """A new key and the certificate signing request for it (DER)."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    csr: bytes


def make_key_request() -> KeyRequest:
    """Draw a P-256 key and sign a request for it. The CA takes only the public key from it, so it says nothing else."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return KeyRequest(key=key, csr=builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER))


def accept_chain(
    request: KeyRequest, chain: Sequence[bytes], *, verifier: BundleVerifier, generation: int, now: float
) -> Credential:
    """Make the credential of an issued chain, after verifying it as a peer would.

    Raises:
        CredentialError: the chain can't be parsed, doesn't verify, or is about another key; ``ClockError``: it isn't
            valid now.

    What this does *not* verify: that the identity is the one that was asked for.
    """
    try:
        certificates = [x509.load_der_x509_certificate(der) for der in chain]
        _check_time(certificates, now)
        peer = verifier.verify_peer(certificates, now=now)
    except ClockError:
        raise
    except (TouchmarkError, ValueError) as error:
        raise CredentialError(f"the CA issued an unusable chain: {error}", reason=Reason.CA_UNAVAILABLE) from error
    leaf = certificates[0]
    if leaf.public_key() != request.key.public_key():
        raise CredentialError("the CA issued a certificate for another key", reason=Reason.CA_UNAVAILABLE)
    return Credential(
        identity=peer.identity,
        chain=tuple(chain),
        key=request.key,
        generation=generation,
        not_before=leaf.not_valid_before_utc.timestamp(),
        not_after=peer.not_after,
        issuer=peer.issuer,
    )


def check_chain_time(chain: Sequence[bytes], now: float) -> None:
    """Check that an issued chain (DER) is valid by this machine's clock.

    Raises:
        CredentialError: it can't be parsed; ``ClockError``: it isn't valid now.

    What this does *not* verify: anything else; see ``accept_chain``.
    """
    try:
        _check_time([x509.load_der_x509_certificate(der) for der in chain], now)
    except ValueError as error:
        raise CredentialError(f"the CA issued an unusable chain: {error}", reason=Reason.CA_UNAVAILABLE) from error


def _check_time(chain: Sequence[x509.Certificate], now: float) -> None:
    """Say by how much the clocks differ at least, where a certificate of a fresh chain isn't valid now."""
    for certificate in chain:
        begin, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
        if not begin <= now < end:
            behind_s = begin - now
            differs = f"{behind_s:.0f} s behind" if behind_s > 0 else f"{now - end:.0f} s ahead of"
            raise ClockError(
                f"this machine's clock is at least {differs} the CA's: what the CA has just issued isn't valid by it;"
                " set both clocks, for example by NTP",
                reason=Reason.CA_UNAVAILABLE,
            )
