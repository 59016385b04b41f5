"""What a sidecar signs with its renewal key to come back after an outage, and where the CA's nonce travels. Pure.

The CA sends a nonce with the answer that opens the WebSocket. The sidecar signs it together with the server certificate
that it saw in the TLS handshake, the keys that it asks for and its own name: a signature serves on one stream to one
server, for one request.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

from shared.model.errors import ProtocolError

NONCE_HEADER: Final = "Touchmark-Nonce"
NONCE_BYTES: Final = 32
# What the key is worth that long after the last certificate ended, unless the CA is told otherwise.
DEFAULT_GRACE_S: Final = 7 * 86_400.0
# The CA forgets what has ended after 30 days; a sidecar must not be forgotten before its grace is over.
MAX_GRACE_S: Final = 28 * 86_400.0
_CONTEXT: Final = b"touchmark renewal 1"


def describe_renewal(
    *, nonce: bytes, server_certificate: bytes, trust_domain: str, instance: str, csr: bytes, following: bytes
) -> bytes:
    """Return what the renewal key signs: each part behind its length, so that none can pass for another.

    Arguments:
        server_certificate: DER, of the TLS handshake.
        csr: the request for the sidecar's new certificate (DER).
        following: the request of the renewal key that takes this one's place (DER).
    """
    parts = (
        _CONTEXT,
        nonce,
        hashlib.sha256(server_certificate).digest(),
        trust_domain.encode(),
        instance.encode(),
        csr,
        following,
    )
    return b"".join(len(part).to_bytes(4) + part for part in parts)


def format_nonce(nonce: bytes) -> str:
    """Write a nonce for the HTTP header."""
    return base64.urlsafe_b64encode(nonce).decode()


def parse_nonce(text: str | None) -> bytes:
    """Read the nonce of a CA's answer.

    Raises:
        ProtocolError: there is none, or it has another length.
    """
    try:
        nonce = base64.urlsafe_b64decode((text or "")[:100])
    except (binascii.Error, ValueError) as error:
        raise ProtocolError("the CA sent a nonce that can't be read") from error
    if len(nonce) != NONCE_BYTES:
        raise ProtocolError("the CA sent no nonce for a renewal")
    return nonce
