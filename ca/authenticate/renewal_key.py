"""Authentication by renewal key: a signature over what was said on this very stream. Pure.

Belongs here: that a peer holds the key that it names. Doesn't: whose key it is and whether it counts
(``ca/store/renewal``).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from shared.model.errors import VerificationError
from shared.model.policy.reasons import Reason
from shared.model.trust.renewal import describe_renewal
from shared.model.wire.messages import Renew

_MAX_KEY_BYTES = 256
_MAX_SIGNATURE_BYTES = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """What makes one stream unlike any other.

    Attributes:
        nonce: that the CA sent when it opened the stream.
        server_certificate: DER, that the CA showed in the TLS handshake.
    """

    nonce: bytes
    server_certificate: bytes


def digest_renewal_key(key: bytes) -> bytes:
    """Return the SHA-256 of a public key (DER, SubjectPublicKeyInfo), by which the store knows it."""
    return hashlib.sha256(key[:_MAX_KEY_BYTES]).digest()


def verify_renewal(message: Renew, channel: Channel, *, trust_domain: str) -> None:
    """Check that the sender holds the renewal key that it names, now and on this stream.

    Raises:
        VerificationError: it doesn't, or the key is no ECDSA P-256 key.

    What this does *not* verify: the two certificate requests, and whether the key counts.
    """
    statement = describe_renewal(
        nonce=channel.nonce,
        server_certificate=channel.server_certificate,
        trust_domain=trust_domain,
        instance=message.registration.instance,
        csr=message.csr,
        following=message.following,
    )
    try:
        if len(message.key) > _MAX_KEY_BYTES or len(message.signature) > _MAX_SIGNATURE_BYTES:
            raise ValueError("too long")
        key = load_der_public_key(message.key)
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ValueError("another kind of key")
        key.verify(message.signature, statement, ec.ECDSA(hashes.SHA256()))
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise VerificationError(
            "the renewal isn't signed by the key that it names, for this stream", reason=Reason.PEER_UNTRUSTED
        ) from error
