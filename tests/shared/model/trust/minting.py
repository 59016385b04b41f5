"""Real certificates, good ones and bad ones, made where a test needs them."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shared.model.trust.bundle import TrustBundle, public_key_digest
from shared.model.trust.certificate import DETAILS_OID

NOW = 1_800_000_000.0
IDENTITY = "spiffe://touchmark.local/ns/shop/sa/web/sha256/" + "a" * 64


def moment(offset_s: float) -> datetime.datetime:
    """The time ``offset_s`` seconds after ``NOW``."""
    return datetime.datetime.fromtimestamp(NOW + offset_s, tz=datetime.UTC)


def named(common_name: str) -> x509.Name:
    """A name with a CN, or the empty one."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])


@dataclass(frozen=True, slots=True, kw_only=True)
class Minted:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def mint_authority(
    name: str,
    issuer: Minted | None = None,
    *,
    path_length: int | None = None,
    from_s: float = -1000.0,
    to_s: float = 100_000.0,
    key: ec.EllipticCurvePrivateKey | None = None,
) -> Minted:
    """Make a root (without ``issuer``) or an authority below it."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    signing_key = issuer.key if issuer else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(issuer.certificate.subject if issuer else named(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment(from_s))
        .not_valid_after(moment(to_s))
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=False,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False)
    )
    return Minted(certificate=builder.sign(signing_key, hashes.SHA256()), key=key)


def mint_leaf(
    issuer: Minted,
    *,
    names: tuple[x509.GeneralName, ...] = (x509.UniformResourceIdentifier(IDENTITY),),
    subject: str = "",
    san_critical: bool | None = True,
    usage_critical: bool = True,
    digital_signature: bool = True,
    key_cert_sign: bool = False,
    is_ca: bool = False,
    purposes: tuple[x509.ObjectIdentifier, ...] = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
    with_identifiers: bool = True,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
    from_s: float = -30.0,
    to_s: float = 3600.0,
    details: bytes | None = None,
) -> x509.Certificate:
    """Make a leaf of the profile; each argument breaks it in one way. ``san_critical`` None leaves the SAN out.

    Arguments:
        details: what the details extension holds; None: there is none.
    """
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(subject))
        .issuer_name(issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment(from_s))
        .not_valid_after(moment(to_s))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=digital_signature,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=not digital_signature,
                key_cert_sign=key_cert_sign,
                crl_sign=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=usage_critical,
        )
    )
    if san_critical is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=san_critical)
    if with_identifiers:
        builder = builder.add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        ).add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
    if details is not None:
        builder = builder.add_extension(x509.UnrecognizedExtension(DETAILS_OID, details), critical=False)
    return builder.sign(issuer.key, hashes.SHA256())


def make_bundle(root: Minted, *issuers: Minted, sequence: int = 1, distrusted: tuple[Minted, ...] = ()) -> TrustBundle:
    """Make the bundle that trusts this root and these issuers."""
    return TrustBundle(
        trust_domain="touchmark.local",
        sequence=sequence,
        roots=(root.certificate.public_bytes(Encoding.DER),),
        issuers=tuple(issuer.certificate.public_bytes(Encoding.DER) for issuer in issuers),
        distrusted=tuple(public_key_digest(each.certificate) for each in distrusted),
    )
