"""The CA's own process signs at once."""

from __future__ import annotations

import pytest
from cryptography import x509

from ca.signing.signer import OwnSigner
from shared.model.errors import VerificationError
from tests.ca.signing.given import CSR, ISSUER, make_wanted, spoil


async def test_it_signs_what_holds_under_a_number_that_it_draws() -> None:
    signed = [await OwnSigner().sign(ISSUER, make_wanted()) for _ in range(2)]
    assert [x509.load_der_x509_certificate(each.der).serial_number for each in signed] == [e.serial for e in signed]
    assert signed[0].serial != signed[1].serial
    with pytest.raises(VerificationError):
        await OwnSigner().sign(ISSUER, make_wanted(spoil(CSR)))
