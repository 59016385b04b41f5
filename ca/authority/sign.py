"""Signing: leaves of the profile, re-checked before they leave. No I/O; time and serial number are arguments.

Belongs here: what a certificate looks like and how long it lives. Doesn't: who may have it (``ca/issuance.py``).
Source: SPIFFE X509-SVID, sections 2 to 4; RFC 5280, section 4.2.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.authority.founding import Authority
from ca.authority.leaf_template import PURPOSES, USAGE, LeafTemplate, make_template, write_certificate, write_tbs
from ca.store.records import BACKDATED_S
from shared.model.errors import InputError, UnavailableError, VerificationError
from shared.model.identity.identity import Identity, format_ca_id, format_spiffe_id
from shared.model.policy.reasons import Reason
from shared.model.trust.certificate import check_leaf_profile

MIN_LIFETIME_S: Final = 300.0
MAX_LIFETIME_S: Final = 86_400.0
AUTHORITY_SHARE: Final = 6  # A leaf lives at most a sixth of its authority's life.
MIN_REMAINING_S: Final = 60.0  # An authority that ends earlier signs nothing.
_MAX_DETAILS_BYTES: Final = 2048
_SIGNATURE: Final = ec.ECDSA(hashes.SHA256())


class Details(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The details extension: evidence for people, never policy input. Verifiers read ``instance``, to refuse."""

    path: str = ""
    approved_by: str = ""
    instance: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedLeaf:
    """A leaf that was signed and checked.

    Attributes:
        certificate: as it was read again from ``der``.
        not_before, not_after: seconds since the epoch, as the certificate says.
    """

    certificate: x509.Certificate
    der: bytes
    not_before: float
    not_after: float


def check_lifetime(lifetime_s: float) -> float:
    """Return the lifetime unchanged.

    Raises:
        InputError: it isn't within 5 minutes and 24 hours.
    """
    if not MIN_LIFETIME_S <= lifetime_s <= MAX_LIFETIME_S:
        raise InputError(f"a leaf lives {MIN_LIFETIME_S:.0f} to {MAX_LIFETIME_S:.0f} seconds, not {lifetime_s:g}")
    return lifetime_s


def sign_leaf(
    authority: Authority,
    public_key: ec.EllipticCurvePublicKey,
    identity: Identity,
    *,
    serial: int,
    now: float,
    lifetime_s: float,
    details: Details | None = None,
) -> SignedLeaf:
    """Sign a leaf for an identity and re-check it against the profile and the authority's public key.

    Arguments:
        serial: at least 128 random bits.
        lifetime_s: 300 to 86,400; shortened where the authority ends earlier.

    Raises:
        InputError: the lifetime is out of its bounds.
        UnavailableError: the authority has ended, or nearly.
        VerificationError: the key isn't ECDSA P-256, or what was signed breaks the profile.

    What this does *not* verify: that the asker holds the key (``evidence.csr``) or may have the identity.
    """
    if not isinstance(public_key.curve, ec.SECP256R1):
        raise VerificationError("the key must be ECDSA P-256", reason=Reason.PEER_UNTRUSTED)
    end = int(_find_end(authority, now, check_lifetime(lifetime_s)))
    start = int(max(now - BACKDATED_S, authority.record.not_before))
    template = make_template(authority.record.certificate)
    key_info = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    tbs = write_tbs(
        template,
        key_info,
        serial=serial,
        start=start,
        end=end,
        uri=format_spiffe_id(identity),
        details=_encode_details(details) if details is not None else None,
    )
    der = write_certificate(tbs, authority.key.sign(tbs, _SIGNATURE))
    leaf = _load(der, template)
    if check_leaf_profile(leaf) != identity:
        raise VerificationError("the signed certificate says another identity", reason=Reason.PEER_UNTRUSTED)
    if (
        leaf.public_key() != public_key
        or leaf.serial_number != serial
        or (leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()) != (start, end)
    ):
        raise VerificationError("the signed certificate says something else", reason=Reason.PEER_UNTRUSTED)
    return SignedLeaf(certificate=leaf, der=der, not_before=start, not_after=end)


def _load(der: bytes, template: LeafTemplate) -> x509.Certificate:
    """Read what was signed as a peer would, and verify its signature by the authority's certificate.

    Raises:
        VerificationError: it can't be read, or the signature is wrong.
    """
    try:
        leaf = x509.load_der_x509_certificate(der)
        template.verifying_key.verify(leaf.signature, leaf.tbs_certificate_bytes, _SIGNATURE)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise VerificationError(
            "the signed certificate doesn't verify against its authority", reason=Reason.PEER_UNTRUSTED
        ) from error
    return leaf


def sign_server(
    authority: Authority,
    public_key: ec.EllipticCurvePublicKey,
    *,
    trust_domain: str,
    addresses: Sequence[str],
    names: Sequence[str],
    serial: int | None = None,
    now: float,
    lifetime_s: float,
) -> x509.Certificate:
    """Sign the certificate of the CA's own server: its SPIFFE ID, IP addresses and DNS names.

    It isn't in the ledger: the CA replaces it itself when the active authority changes.

    Raises:
        as ``sign_leaf``.
    """
    alternatives: list[x509.GeneralName] = [x509.UniformResourceIdentifier(format_ca_id(trust_domain))]
    alternatives += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
    alternatives += [x509.DNSName(name) for name in names]
    number = x509.random_serial_number() if serial is None else serial
    return _sign(authority, public_key, alternatives, serial=number, now=now, lifetime_s=lifetime_s)


def _sign(
    authority: Authority,
    public_key: ec.EllipticCurvePublicKey,
    names: Sequence[x509.GeneralName],
    *,
    serial: int,
    now: float,
    lifetime_s: float,
) -> x509.Certificate:
    if not isinstance(public_key.curve, ec.SECP256R1):
        raise VerificationError("the key must be ECDSA P-256", reason=Reason.PEER_UNTRUSTED)
    end = _find_end(authority, now, check_lifetime(lifetime_s))
    start = max(now - BACKDATED_S, authority.record.not_before)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authority.certificate.subject)
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(datetime.datetime.fromtimestamp(int(start), tz=datetime.UTC))
        .not_valid_after(datetime.datetime.fromtimestamp(int(end), tz=datetime.UTC))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(USAGE, critical=True)
        .add_extension(PURPOSES, critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
    )
    leaf = builder.sign(authority.key, hashes.SHA256())
    try:
        leaf.verify_directly_issued_by(authority.certificate)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise VerificationError(
            "the signed certificate doesn't verify against its authority", reason=Reason.PEER_UNTRUSTED
        ) from error
    return leaf


def _find_end(authority: Authority, now: float, lifetime_s: float) -> float:
    record = authority.record
    allowed_s = min(lifetime_s, (record.not_after - record.not_before) / AUTHORITY_SHARE)
    end = min(now + allowed_s, record.not_after)
    if end - now < MIN_REMAINING_S:
        raise UnavailableError(
            f"the issuing authority {record.authority_id} has ended, or nearly",
            hint="`touchmark ca rotate issuer --force`",
        )
    return end


def _encode_details(details: Details) -> bytes:
    """Write the details as JSON in a DER UTF8String (X.690, section 8.23)."""
    text = msgspec.json.encode(details)
    if len(text) > _MAX_DETAILS_BYTES:
        raise InputError(f"the details of a certificate exceed {_MAX_DETAILS_BYTES} bytes")
    if len(text) < 0x80:
        return bytes([0x0C, len(text)]) + text
    length = len(text).to_bytes(2, "big").lstrip(b"\0")
    return bytes([0x0C, 0x80 | len(length)]) + length + text
