"""Certificate requests: only the public key is taken from one, after its signature is checked. Pure.

Source: RFC 2986, section 4.2.
"""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import SignatureAlgorithmOID

from shared.model.errors import VerificationError
from shared.model.policy.reasons import Reason

MAX_CSR_BYTES: Final = 8192
# RFC 5758, section 3.2.
_SIGNATURES: Final = {
    SignatureAlgorithmOID.ECDSA_WITH_SHA256: ec.ECDSA(hashes.SHA256()),
    SignatureAlgorithmOID.ECDSA_WITH_SHA384: ec.ECDSA(hashes.SHA384()),
    SignatureAlgorithmOID.ECDSA_WITH_SHA512: ec.ECDSA(hashes.SHA512()),
}


def check_csr(csr_der: bytes) -> ec.EllipticCurvePublicKey:
    """Return the public key whose holder signed this request. Names and extensions in it are ignored.

    Raises:
        VerificationError: it is no request, its signature is wrong or by another algorithm than ECDSA with
            SHA-2, or the key isn't ECDSA P-256.
    """

    def fail(what: str) -> VerificationError:
        return VerificationError(f"the certificate request {what}", reason=Reason.PEER_UNTRUSTED)

    if len(csr_der) > MAX_CSR_BYTES:
        raise fail(f"exceeds {MAX_CSR_BYTES} bytes")
    try:
        request = x509.load_der_x509_csr(csr_der)
        key = request.public_key()
        algorithm = _SIGNATURES.get(request.signature_algorithm_oid)
        signature, signed = request.signature, request.tbs_certrequest_bytes
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise fail("can't be read") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise fail("holds another key than ECDSA P-256")
    if algorithm is None:
        raise fail("isn't signed with ECDSA and SHA-256, SHA-384 or SHA-512")
    try:
        # ``is_signature_valid`` does the same with a second copy of the key, in half as long again.
        key.verify(signature, signed, algorithm)
    except InvalidSignature as error:
        raise fail("isn't signed by its own key") from error
    return key
