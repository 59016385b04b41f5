"""New authorities: a key, a certificate of the profile, and the record with the sealed key. No I/O.

Each key has its own subject: verifiers that look issuers up by name never try the wrong one.
Source: RFC 5280, sections 4.2.1.2, 4.2.1.3 and 4.2.1.9; SPIFFE X509-SVID, section 3.
"""

from __future__ import annotations

import datetime
import secrets
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from ca.authority.kek import KeyEncryptionError, KeyEncryptionKey
from ca.store.records import BACKDATED_S, AuthorityKind, AuthorityRecord
from shared.model.trust.bundle import AuthorityPhase, public_key_digest

DAY_S: Final = 86_400
ROOT_LIFETIME_S: Final = 3650 * DAY_S
ISSUER_LIFETIME_S: Final = 90 * DAY_S
# What is signed is valid from so long before: peers' clocks may be behind. As Istio's ClockSkewGracePeriod (SPIRE's
# NotBeforeCushion is 10 s). An authority must be older than its first leaf.


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """An authority that can sign."""

    record: AuthorityRecord
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def authority_id(self) -> str:
        """Its ID in the store."""
        return self.record.authority_id


def make_root(
    trust_domain: str, kek: KeyEncryptionKey, *, now: float, phase: AuthorityPhase = AuthorityPhase.ACTIVE
) -> Authority:
    """Make a root: self-signed, 10 years, one authority below it."""
    authority_id = secrets.token_hex(8)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject("root", authority_id)
    certificate = _sign_authority(
        subject=subject,
        issuer=subject,
        public_key=key.public_key(),
        signing_key=key,
        issuer_public_key=key.public_key(),
        path_length=1,
        trust_domain=trust_domain,
        not_before=now - BACKDATED_S,
        not_after=now + ROOT_LIFETIME_S,
    )
    return _authority(authority_id, AuthorityKind.ROOT, phase, authority_id, certificate, key, kek, now)


def make_issuer(
    trust_domain: str,
    root: Authority,
    kek: KeyEncryptionKey,
    *,
    phase: AuthorityPhase,
    now: float,
    lifetime_s: float = ISSUER_LIFETIME_S,
) -> Authority:
    """Make an issuing authority below the root: pathLen 0, never beyond the root's end."""
    authority_id = secrets.token_hex(8)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _sign_authority(
        subject=_subject("issuer", authority_id),
        issuer=root.certificate.subject,
        public_key=key.public_key(),
        signing_key=root.key,
        issuer_public_key=root.key.public_key(),
        path_length=0,
        trust_domain=trust_domain,
        not_before=max(now - BACKDATED_S, root.record.not_before),
        not_after=min(now + lifetime_s, root.record.not_after),
    )
    return _authority(authority_id, AuthorityKind.ISSUING, phase, root.authority_id, certificate, key, kek, now)


def open_authority(record: AuthorityRecord, kek: KeyEncryptionKey) -> Authority:
    """Unseal a stored authority's key and see that it belongs to the certificate.

    Raises:
        KeyEncryptionError: another key-encryption key sealed it, or the store was tampered with.
    """
    context = _seal_context(record.authority_id, record.kind, record.public_key_digest)
    key = load_der_private_key(kek.open_sealed(record.sealed_key, context=context), password=None)
    certificate = x509.load_der_x509_certificate(record.certificate)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise KeyEncryptionError(
            "an authority's certificate in the store isn't that of its key", hint="restore the store from a backup"
        )
    return Authority(record=record, certificate=certificate, key=key)


def reseal_key(record: AuthorityRecord, old: KeyEncryptionKey, new: KeyEncryptionKey) -> bytes:
    """Return a stored authority's key, sealed with another key-encryption key.

    Raises:
        KeyEncryptionError: ``old`` doesn't open it, or the store was tampered with.
    """
    context = _seal_context(record.authority_id, record.kind, record.public_key_digest)
    return new.seal(old.open_sealed(record.sealed_key, context=context), context=context)


def _subject(role: str, authority_id: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Touchmark"),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, f"touchmark {role} {authority_id}"),
        ]
    )


def _sign_authority(
    *,
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    signing_key: ec.EllipticCurvePrivateKey,
    issuer_public_key: ec.EllipticCurvePublicKey,
    path_length: int,
    trust_domain: str,
    not_before: float,
    not_after: float,
) -> x509.Certificate:
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime.fromtimestamp(int(not_before), tz=datetime.UTC))
        .not_valid_after(datetime.datetime.fromtimestamp(int(not_after), tz=datetime.UTC))
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_public_key), critical=False)
        # A signing certificate's SPIFFE ID has no path (X509-SVID, section 3.2).
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]), critical=False
        )
        .sign(signing_key, hashes.SHA256())
    )


def _authority(
    authority_id: str,
    kind: AuthorityKind,
    phase: AuthorityPhase,
    root_id: str,
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    kek: KeyEncryptionKey,
    now: float,
) -> Authority:
    digest = public_key_digest(certificate)
    secret = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    record = AuthorityRecord(
        authority_id=authority_id,
        kind=kind,
        phase=phase,
        root_id=root_id,
        subject=certificate.subject.rfc4514_string(),
        certificate=certificate.public_bytes(Encoding.DER),
        public_key_digest=digest,
        sealed_key=kek.seal(secret, context=_seal_context(authority_id, kind, digest)),
        not_before=certificate.not_valid_before_utc.timestamp(),
        not_after=certificate.not_valid_after_utc.timestamp(),
        created=now,
    )
    return Authority(record=record, certificate=certificate, key=key)


def _seal_context(authority_id: str, kind: AuthorityKind, digest: str) -> bytes:
    return f"touchmark authority key\0{authority_id}\0{kind}\0{digest}".encode()
