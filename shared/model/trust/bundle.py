"""Trust bundles: what a trust domain currently accepts and distrusts. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization

SERIAL_PREFIX: Final = "serial:"
INSTANCE_PREFIX: Final = "instance:"
MAX_DISTRUSTED_LEAVES: Final = 4_096


class AuthorityPhase(StrEnum):
    """The life of an authority: ``prepared → active → old → (tainted) → retired``."""

    PREPARED = "prepared"
    ACTIVE = "active"
    OLD = "old"
    TAINTED = "tainted"
    RETIRED = "retired"


AUTHORITY_TRANSITIONS: dict[AuthorityPhase, frozenset[AuthorityPhase]] = {
    AuthorityPhase.PREPARED: frozenset({AuthorityPhase.ACTIVE, AuthorityPhase.RETIRED}),
    AuthorityPhase.ACTIVE: frozenset({AuthorityPhase.OLD}),
    # Back to active while nothing has retired it: a rotation can be reversed until the next.
    AuthorityPhase.OLD: frozenset({AuthorityPhase.ACTIVE, AuthorityPhase.TAINTED, AuthorityPhase.RETIRED}),
    AuthorityPhase.TAINTED: frozenset({AuthorityPhase.RETIRED}),
    AuthorityPhase.RETIRED: frozenset(),
}


class RotationKind(StrEnum):
    """What is rotated: the issuing authority, or the root with the issuing authorities below it."""

    ISSUER = "issuer"
    ROOT = "root"


class TrustBundle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a trust domain currently accepts.

    Attributes:
        sequence: grows with every change; sidecars acknowledge it once it is installed.
        roots: DER of the root certificates.
        issuers: DER of the issuing authorities in phase prepared, active or old. A leaf of another issuer is refused.
        distrusted: SHA-256 (hexadecimal) of the SubjectPublicKeyInfo of authorities that are refused anywhere in a
            chain; ``serial:`` with the serial number (hexadecimal, without leading zeros) of a leaf that is refused
            until it ends; ``instance:SECONDS:NAME`` for all leaves of a sidecar that became valid up to then (seconds
            since the epoch). Of both together at most ``MAX_DISTRUSTED_LEAVES``. Serial numbers are random, so they
            name no other's leaf. Release 0.1 takes these for keys that it never meets.
    """

    trust_domain: str
    sequence: int
    roots: tuple[bytes, ...]
    issuers: tuple[bytes, ...] = ()
    distrusted: tuple[str, ...] = ()


def name_serial(serial: int) -> str:
    """Return how ``TrustBundle.distrusted`` names a leaf's serial number."""
    return f"{SERIAL_PREFIX}{serial:x}"


def name_instance(instance: str, *, until: int) -> str:
    """Return how ``TrustBundle.distrusted`` names all leaves of a sidecar that became valid until then.

    Arguments:
        until: seconds since the epoch.
    """
    return f"{INSTANCE_PREFIX}{until}:{instance}"


def list_instances(distrusted: Iterable[str]) -> dict[str, int]:
    """Return, by sidecar, until when its leaves became valid that are distrusted, in seconds since the epoch.

    Raises:
        ValueError: an entry can't be read.
    """
    found: dict[str, int] = {}
    for entry in distrusted:
        if entry.startswith(INSTANCE_PREFIX):
            until, _, instance = entry.removeprefix(INSTANCE_PREFIX).partition(":")
            found[instance] = max(int(until), found.get(instance, 0))
    return found


def public_key_digest(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of the certificate's SubjectPublicKeyInfo in hexadecimal (RFC 7469, section 2.4)."""
    spki = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).hexdigest()
