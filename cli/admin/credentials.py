"""What the command shows to the CA's admin port: the user's own bearer token, or a challenge signed by its key. I/O.

Belongs here: the header of a request. Doesn't: where the credentials come from (``cli/cluster/kubeconfig.py``).
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec

from shared.model.errors import InputError, UnavailableError
from shared.model.trust.admin_access import (
    CHALLENGE_PATH,
    MAX_CERTIFICATES,
    CertificateProof,
    Challenge,
    decode_part,
    format_proof,
    make_signed_part,
)

if TYPE_CHECKING:
    import aiohttp

# A challenge holds for five minutes at the CA; clocks aren't compared.
RENEW_AFTER_S: Final = 120.0
CHALLENGE_DEADLINE_S: Final = 15.0
_MAX_CHALLENGE_BYTES: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Of a kubeconfig.

    Attributes:
        authorization: the header's value; empty: there is no token.
        certificate, key: PEM; empty: there is no client certificate.
    """

    authorization: str = field(repr=False, default="")
    certificate: bytes = field(repr=False, default=b"")
    key: bytes = field(repr=False, default=b"")


class Authorization:
    """Makes the header of each request; a signed challenge serves for two minutes."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._signed = ""
        self._renew_at = 0.0

    async def make_headers(self, session: aiohttp.ClientSession) -> dict[str, str]:
        """Return the headers that say who asks; none where the user has no credentials or the CA asks for none.

        Raises:
            InputError: the key can't be used.
            UnavailableError: the CA gives no challenge now.
            aiohttp.ClientError, OSError: the CA can't be reached.
        """
        if self._credentials.authorization:
            return {"Authorization": self._credentials.authorization}
        if not self._credentials.certificate:
            return {}
        if time.monotonic() >= self._renew_at:
            challenge = await _ask_challenge(session)
            self._signed = "" if challenge is None else format_proof(sign(self._credentials, challenge))
            self._renew_at = time.monotonic() + RENEW_AFTER_S
        return {"Authorization": self._signed} if self._signed else {}


def sign(credentials: Credentials, challenge: bytes) -> CertificateProof:
    """Sign a challenge with the key of the client certificate.

    Raises:
        InputError: key or certificate can't be used.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

    try:
        key = load_pem_private_key(credentials.key, password=None)
        chain = x509.load_pem_x509_certificates(credentials.certificate)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"the kubeconfig's client certificate or key can't be used: {error}") from error
    match key:
        case ec.EllipticCurvePrivateKey():
            signature = key.sign(make_signed_part(challenge), ec.ECDSA(hashes.SHA256()))
        case rsa.RSAPrivateKey():
            signature = key.sign(make_signed_part(challenge), padding.PKCS1v15(), hashes.SHA256())
        case _:
            raise InputError("the kubeconfig's client key is neither RSA nor ECDSA", hint="use a bearer token")
    shown = tuple(each.public_bytes(Encoding.DER) for each in chain[:MAX_CERTIFICATES])
    return CertificateProof(challenge=challenge, signature=signature, chain=shown)


async def _ask_challenge(session: aiohttp.ClientSession) -> bytes | None:
    """Return a challenge; None: this CA has none, as those of 0.1."""
    async with asyncio.timeout(CHALLENGE_DEADLINE_S), session.get(CHALLENGE_PATH) as response:
        content = await response.content.read(_MAX_CHALLENGE_BYTES)
        if response.status == 404:
            return None
        if response.status != 200:  # An answer like that of 0.1 would have the request go on without credentials.
            raise UnavailableError(
                f"the CA gave no challenge for the client certificate: HTTP status {response.status}",
                hint="try again; the CA's log says more",
            )
    try:
        return decode_part(msgspec.json.decode(content, type=Challenge).challenge)
    except (msgspec.DecodeError, InputError):
        return None
