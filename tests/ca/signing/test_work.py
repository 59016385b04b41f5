"""What is done for one certificate is the same in either process, its refusals included."""

from __future__ import annotations

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ca.authority.sign import Details
from ca.signing.orders import Fault
from ca.signing.work import check_and_sign, fill, make_error, read_handover, write_handover
from shared.model.errors import TouchmarkError, UnavailableError
from shared.model.trust.certificate import check_leaf_profile, read_instance
from tests.ca.founded import NOW, make_csr
from tests.ca.signing.given import CSR, ISSUER, SIDECAR, make_order, spoil


def test_an_order_is_filled_by_the_authority_that_was_handed_over() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    answer = fill(make_order(7, csr=make_csr(key)), read_handover(write_handover(ISSUER)))
    leaf = x509.load_der_x509_certificate(answer.der)
    leaf.verify_directly_issued_by(ISSUER.certificate)
    assert (answer.number, leaf.serial_number, answer.fault) == (7, 7 + (1 << 130), None)
    assert check_leaf_profile(leaf) == SIDECAR
    assert leaf.public_key() == key.public_key()
    assert read_instance(leaf) == "a"
    assert (answer.not_before, answer.not_after) == (NOW - 120, NOW + 3600)


@pytest.mark.parametrize(
    "options",
    [
        {"csr": spoil(CSR)},
        {"csr": b"none"},
        {"csr": bytes(9000)},
        {"lifetime_s": 1.0},
        {"now": ISSUER.record.not_after},
    ],
    ids=[
        "another's signature",
        "no request",
        "a request too long",
        "a lifetime too short",
        "an authority that has ended",
    ],
)
def test_a_refusal_is_the_same_error_as_in_the_cas_own_process(options: dict[str, bytes | float]) -> None:
    order = msgspec.structs.replace(make_order(), **options)
    with pytest.raises(TouchmarkError) as own:
        check_and_sign(
            ISSUER, order.csr, SIDECAR, serial=1 << 130, now=order.now, lifetime_s=order.lifetime_s, details=Details()
        )
    answer = fill(order, ISSUER)
    assert answer.fault is not None
    error = make_error(answer.fault)
    assert (type(error), error.message, error.hint, error.reason) == (
        type(own.value),
        own.value.message,
        own.value.hint,
        own.value.reason,
    )


def test_what_nobody_expected_is_one_orders_answer_and_no_end() -> None:
    answer = fill(make_order(identity="spiffe://touchmark.local/ns/é/sa/web/sidecar"), ISSUER)
    assert answer.fault is not None
    assert isinstance(make_error(Fault("", "KeyError()")), UnavailableError)


def test_only_a_key_that_signs_leaves_is_taken() -> None:
    key = ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(ValueError, match="curve"):
        read_handover(msgspec.structs.replace(write_handover(ISSUER), key=key))
