"""The header of a caller's own credentials (``shared.model.trust.admin_access``)."""

from __future__ import annotations

import pytest

from shared.model.errors import InputError
from shared.model.trust.admin_access import (
    CERTIFICATE_SCHEME,
    CertificateProof,
    format_proof,
    make_signed_part,
    parse_proof,
)


def test_what_is_written_is_read() -> None:
    proof = CertificateProof(challenge=b"\xff\x00", signature=b"sig", chain=(b"leaf", b"authority"))
    scheme, _, text = format_proof(proof).partition(" ")
    assert scheme == CERTIFICATE_SCHEME
    assert parse_proof(text) == proof


@pytest.mark.parametrize("text", ["", "a", "YQ.YQ", "YQ.YQ.Y", "YQ.YQ.Y Q", "YQ.YQ.é", ".".join(["YQ"] * 8)])
def test_what_is_no_proof_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="proof"):
        parse_proof(text)


def test_what_is_signed_is_nothing_that_tls_has_a_client_sign() -> None:
    assert not make_signed_part(b"x").startswith(b" " * 64)
    assert len(make_signed_part(b"")) > 32
