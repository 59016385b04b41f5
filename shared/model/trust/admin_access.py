"""How a caller of the CA's admin port says who it is: with its Kubernetes credentials. Pure.

Belongs here: the header of both kinds, and what is signed. Doesn't: verifying it
(``ca/authenticate/user_certificate.py``, ``ca/kubernetes/api/user_reviews.py``), or who may do what
(``ca/api/access/roles.py``).

- A bearer token goes as ``Authorization: Bearer TOKEN``; the CA has the API server review it (TokenReview).
- A client certificate's owner asks for a challenge first and signs it. The header is then
  ``Authorization: Touchmark-Certificate CHALLENGE.SIGNATURE.CERTIFICATE[.CERTIFICATE…]``, each part base64url without
  padding, certificates in DER, the user's own first. It holds until the challenge ends, at the CA that made it.

A CA of 0.1 knows neither: it answers 404 to the request for a challenge, and asks nobody who they are.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

import msgspec

from shared.model.errors import InputError

CHALLENGE_PATH: Final = "/v1/challenge"
BEARER: Final = "Bearer"
CERTIFICATE_SCHEME: Final = "Touchmark-Certificate"
MAX_AUTHORIZATION_CHARACTERS: Final = 32_768
MAX_CERTIFICATES: Final = 5
# What is signed begins like nothing that TLS has a client sign (RFC 8446, 4.4.3: 64 spaces; RFC 5246: a bare digest).
_CONTEXT: Final = b"touchmark admin challenge, version 1\x00"


class Challenge(msgspec.Struct, frozen=True, kw_only=True):
    """What the owner of a client certificate signs.

    Attributes:
        challenge: base64url.
        expires: seconds since the epoch, by the CA's clock.
    """

    challenge: str
    expires: float


class CertificateProof(msgspec.Struct, frozen=True, kw_only=True):
    """That somebody has the key of a certificate. ``chain``: DER, the user's own first."""

    challenge: bytes
    signature: bytes
    chain: tuple[bytes, ...]


def make_signed_part(challenge: bytes) -> bytes:
    """Return the bytes that a challenge's signature is over."""
    return _CONTEXT + challenge


def format_proof(proof: CertificateProof) -> str:
    """Write the header's value."""
    parts = (proof.challenge, proof.signature, *proof.chain)
    return f"{CERTIFICATE_SCHEME} {'.'.join(encode_part(part) for part in parts)}"


def parse_proof(text: str) -> CertificateProof:
    """Read what stands behind ``CERTIFICATE_SCHEME``.

    Raises:
        InputError: it isn't such a proof.
    """
    parts = text.split(".")
    if not 3 <= len(parts) <= 2 + MAX_CERTIFICATES:
        raise InputError(
            "the client certificate's proof can't be read", hint=f"at most {MAX_CERTIFICATES} certificates"
        )
    challenge, signature, *chain = (decode_part(part) for part in parts)
    return CertificateProof(challenge=challenge, signature=signature, chain=tuple(chain))


def encode_part(content: bytes) -> str:
    """Write bytes as base64url without padding (RFC 4648, section 5)."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def decode_part(text: str) -> bytes:
    """Read base64url without padding.

    Raises:
        InputError: it isn't.
    """
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError("the client certificate's proof isn't base64url") from error
