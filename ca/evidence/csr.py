"""Certificate requests: only the public key is taken from one, after its signature is checked. Pure.

Source: RFC 2986, section 4.2.
"""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from shared.model.errors import VerificationError
from shared.model.policy.reasons import Reason

MAX_CSR_BYTES: Final = 8192


def check_csr(csr_der: bytes) -> ec.EllipticCurvePublicKey:
    """Return the public key whose holder signed this request. Names and extensions in it are ignored.

    Raises:
        VerificationError: it is no request, its signature is wrong, or the key isn't ECDSA P-256.
    """

    def fail(what: str) -> VerificationError:
        return VerificationError(f"the certificate request {what}", reason=Reason.PEER_UNTRUSTED)

    if len(csr_der) > MAX_CSR_BYTES:
        raise fail(f"exceeds {MAX_CSR_BYTES} bytes")
    try:
        request = x509.load_der_x509_csr(csr_der)
        key = request.public_key()
        is_signed = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise fail("can't be read") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise fail("holds another key than ECDSA P-256")
    if not is_signed:
        raise fail("isn't signed by its own key")
    return key
