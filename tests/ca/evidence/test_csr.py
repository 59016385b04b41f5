"""Only a request that its own P-256 key signed gives a key."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from ca.evidence.csr import MAX_CSR_BYTES, check_csr
from shared.model.errors import VerificationError
from tests.ca.founded import make_csr


def test_the_key_of_a_signed_request_is_returned() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    assert check_csr(make_csr(key)) == key.public_key()


def test_a_request_signed_by_another_key_is_refused() -> None:
    mine, other = make_csr(), make_csr()
    request = x509.load_der_x509_csr(other)
    forged = mine.replace(x509.load_der_x509_csr(mine).signature, request.signature)
    with pytest.raises(VerificationError):
        check_csr(forged)


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()])
def test_other_kinds_of_key_are_refused(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> None:
    algorithm = hashes.SHA256() if isinstance(key, ec.EllipticCurvePrivateKey) else None
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, algorithm)
    with pytest.raises(VerificationError, match="P-256"):
        check_csr(request.public_bytes(Encoding.DER))


@pytest.mark.parametrize("csr", [b"", b"0", bytes(MAX_CSR_BYTES + 1)])
def test_what_is_no_request_is_refused(csr: bytes) -> None:
    with pytest.raises(VerificationError):
        check_csr(csr)
