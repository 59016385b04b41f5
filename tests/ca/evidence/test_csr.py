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


@pytest.mark.parametrize(
    ("algorithm", "is_taken"),
    [(hashes.SHA256(), True), (hashes.SHA384(), True), (hashes.SHA512(), True), (hashes.SHA224(), False)],
)
def test_requests_are_signed_with_sha_256_or_stronger(algorithm: hashes.HashAlgorithm, *, is_taken: bool) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = builder.sign(key, algorithm)  # type: ignore[arg-type]
    if is_taken:
        assert check_csr(request.public_bytes(Encoding.DER)) == key.public_key()
        return
    with pytest.raises(VerificationError, match="SHA-256, SHA-384"):
        check_csr(request.public_bytes(Encoding.DER))


def test_a_request_that_names_another_algorithm_than_it_was_signed_with_is_refused() -> None:
    sha256, sha512 = bytes.fromhex("2a8648ce3d040302"), bytes.fromhex("2a8648ce3d040304")
    request = make_csr()
    assert request.count(sha256) == 1
    with pytest.raises(VerificationError, match="own key"):
        check_csr(request.replace(sha256, sha512))


def test_a_signature_that_is_no_signature_is_refused() -> None:
    request = make_csr()
    signature = x509.load_der_x509_csr(request).signature
    with pytest.raises(VerificationError, match="own key"):
        check_csr(request.replace(signature, bytes(len(signature))))


@pytest.mark.parametrize("csr", [b"", b"0", bytes(MAX_CSR_BYTES + 1)])
def test_what_is_no_request_is_refused(csr: bytes) -> None:
    with pytest.raises(VerificationError):
        check_csr(csr)
