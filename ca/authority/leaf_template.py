"""The DER of leaves, written from a template: only what varies is encoded anew. Pure.

Belongs here: bytes of a TBSCertificate and a Certificate. Doesn't: what a leaf may say, signing, and the check of what
was written (``sign.py``). ``x509.CertificateBuilder`` writes the same bytes, which a test compares, in ten times as
long: half of the CA's work for a certificate.

Source: RFC 5280, section 4.1; X.690.
"""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from shared.model.trust.certificate import DETAILS_OID

USAGE: Final = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
PURPOSES: Final = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])

_BOOLEAN_TRUE: Final = bytes.fromhex("0101ff")
_BIT_STRING, _INTEGER, _OCTET_STRING, _SEQUENCE = 0x03, 0x02, 0x04, 0x30
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
_VERSION_3: Final = bytes.fromhex("a003020102")
_EXTENSIONS, _URI = 0xA3, 0x86  # [3] EXPLICIT; GeneralName's [6] IMPLICIT IA5String.
_ECDSA_WITH_SHA256: Final = bytes.fromhex("300a06082a8648ce3d040302")  # RFC 5758, section 3.2.
_KEY_IDENTIFIER_BYTES: Final = 20
_EMPTY_NAME: Final = bytes.fromhex("3000")
_GENERALIZED_FROM: Final = 2050  # RFC 5280, section 4.1.2.5.
# The SubjectPublicKeyInfo of a P-256 key, RFC 5480, section 2: this, and the point, which isn't compressed.
_KEY_INFO: Final = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
_POINT_AT, _KEY_INFO_BYTES = len(_KEY_INFO) - 1, 91


def write(tag: int, *content: bytes) -> bytes:
    """Write one DER value."""
    joined = b"".join(content)
    size = len(joined)
    if size < 0x80:
        return bytes((tag, size)) + joined
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + joined


def write_extension(oid: x509.ObjectIdentifier, value: bytes, *, critical: bool) -> bytes:
    """Write an extension whose value is DER already."""
    return write(_SEQUENCE, _write_oid(oid), _BOOLEAN_TRUE if critical else b"", write(_OCTET_STRING, value))


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafTemplate:
    """What all leaves of one authority have in common: from the algorithm to the issuer, and the fixed extensions."""

    issuer: bytes
    usages: bytes
    authority_key: bytes
    verifying_key: ec.EllipticCurvePublicKey


@lru_cache(maxsize=16)
def make_template(authority_certificate: bytes) -> LeafTemplate:
    """Make an authority's template from its certificate, DER.

    Raises:
        ValueError: the authority's key isn't on a curve.
    """
    certificate = x509.load_der_x509_certificate(authority_certificate)
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("the authority's key isn't on a curve")
    constraints = x509.BasicConstraints(ca=False, path_length=None)
    authority_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(key)
    return LeafTemplate(
        issuer=_ECDSA_WITH_SHA256 + certificate.subject.public_bytes(),
        usages=write_extension(constraints.oid, constraints.public_bytes(), critical=True)
        + write_extension(USAGE.oid, USAGE.public_bytes(), critical=True)
        + write_extension(PURPOSES.oid, PURPOSES.public_bytes(), critical=False),
        authority_key=write_extension(authority_key.oid, authority_key.public_bytes(), critical=False),
        verifying_key=key,
    )


def write_tbs(
    template: LeafTemplate,
    key_info: bytes,
    *,
    serial: int,
    start: int,
    end: int,
    uri: str,
    details: bytes | None,
) -> bytes:
    """Write the part of a leaf that is signed.

    Arguments:
        key_info: the key's SubjectPublicKeyInfo, DER; on P-256, its point not compressed.
        serial: positive.
        start, end: seconds since the epoch.
        uri: the one alternative name, ASCII.
        details: the details extension's value, DER; None: there is none.

    Raises:
        ValueError: the key isn't on P-256, the serial number isn't positive, or the URI isn't ASCII.
    """
    if len(key_info) != _KEY_INFO_BYTES or not key_info.startswith(_KEY_INFO) or serial <= 0:
        raise ValueError("the key isn't on P-256, or the serial number isn't positive")
    # RFC 5280, section 4.2.1.2, method 1.
    key_identifier = hashlib.sha1(key_info[_POINT_AT:], usedforsecurity=False).digest()
    name = uri.encode("ascii")
    extensions = write(
        _SEQUENCE,
        template.usages,
        # Critical, for the subject is empty (RFC 5280, section 4.2.1.6).
        write(_SEQUENCE, _SAN, write(_OCTET_STRING, write(_SEQUENCE, write(_URI, name)))),
        _KEY_IDENTIFIER,
        key_identifier,
        template.authority_key,
        b"" if details is None else write(_SEQUENCE, _DETAILS, write(_OCTET_STRING, details)),
    )
    return write(
        _SEQUENCE,
        _VERSION_3,
        write(_INTEGER, serial.to_bytes(serial.bit_length() // 8 + 1, "big")),
        template.issuer,
        _write_validity(start, end),
        _EMPTY_NAME,
        key_info,
        write(_EXTENSIONS, extensions),
    )


def write_certificate(tbs: bytes, signature: bytes) -> bytes:
    """Write a certificate from its signed part and the ECDSA signature over it."""
    return write(_SEQUENCE, tbs, _ECDSA_WITH_SHA256, write(_BIT_STRING, b"\0", signature))


def _write_oid(oid: x509.ObjectIdentifier) -> bytes:
    first, second, *others = (int(part) for part in oid.dotted_string.split("."))
    encoded = bytearray()
    for number in (first * 40 + second, *others):
        groups = [number & 0x7F]
        while number := number >> 7:
            groups.append(0x80 | number & 0x7F)
        encoded += bytes(reversed(groups))
    return write(0x06, bytes(encoded))


@lru_cache(maxsize=16)  # Many leaves are signed within the same second.
def _write_validity(start: int, end: int) -> bytes:
    return write(_SEQUENCE, _write_time(start), _write_time(end))


def _write_time(seconds: int) -> bytes:
    moment = datetime.datetime.fromtimestamp(seconds, tz=datetime.UTC)
    if moment.year < _GENERALIZED_FROM:
        return write(_UTC_TIME, moment.strftime("%y%m%d%H%M%SZ").encode())
    return write(_GENERALIZED_TIME, moment.strftime("%Y%m%d%H%M%SZ").encode())


_SAN: Final = _write_oid(x509.SubjectAlternativeName.oid) + _BOOLEAN_TRUE
# The extension up to the identifier itself, 20 bytes.
_KEY_IDENTIFIER: Final = write(
    _SEQUENCE,
    _write_oid(x509.SubjectKeyIdentifier.oid),
    write(_OCTET_STRING, write(_OCTET_STRING, bytes(_KEY_IDENTIFIER_BYTES))),
)[:-_KEY_IDENTIFIER_BYTES]
_DETAILS: Final = _write_oid(DETAILS_OID)
