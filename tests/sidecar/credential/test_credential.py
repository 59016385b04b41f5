"""Credentials: what the CA issued must hold before it is used."""

from __future__ import annotations

import time

import pytest

from shared.model.identity.identity import Identity, IdentityKind, Workload
from shared.model.policy.reasons import Reason
from sidecar.credential.credential import ClockError, CredentialError, accept_chain, make_key_request
from sidecar.mesh.trust import Trust
from tests.sidecar.little_ca import TRUST_DOMAIN, LittleCA

IDENTITY = Identity(
    trust_domain=TRUST_DOMAIN,
    workload=Workload(namespace="shop", service_account="web"),
    kind=IdentityKind.SIDECAR,
)


def test_an_issued_chain_becomes_a_credential() -> None:
    ca, request, now = LittleCA(), make_key_request(), time.time()
    chain = ca.issue(request.csr, IDENTITY)
    credential = accept_chain(request, chain, verifier=Trust(ca.bundle).verifier, generation=4, now=now)
    assert (credential.identity, credential.issuer, credential.generation) == (IDENTITY, "little issuer", 4)
    assert credential.not_before < now < credential.not_after


def test_another_key_another_ca_and_rubbish_are_refused() -> None:
    ca, request = LittleCA(), make_key_request()
    verifier = Trust(ca.bundle).verifier
    for chain in (ca.issue(make_key_request().csr, IDENTITY), LittleCA().issue(request.csr, IDENTITY), (b"x",), ()):
        with pytest.raises(CredentialError) as caught:
            accept_chain(request, chain, verifier=verifier, generation=1, now=time.time())
        assert caught.value.reason is Reason.CA_UNAVAILABLE


@pytest.mark.parametrize(
    ("ahead_s", "said"), [(-300, "at least 270 s behind the CA's"), (7_200, "at least 3600 s ahead of the CA's")]
)
def test_a_fresh_chain_that_isnt_valid_now_means_that_the_clocks_differ(ahead_s: int, said: str) -> None:
    ca, request, now = LittleCA(), make_key_request(), time.time()
    chain = ca.issue(request.csr, IDENTITY)
    with pytest.raises(ClockError) as caught:
        accept_chain(request, chain, verifier=Trust(ca.bundle).verifier, generation=1, now=now + ahead_s)
    assert caught.value.reason is Reason.CA_UNAVAILABLE
    seconds = int(said.split()[2])
    assert any(said.replace(str(seconds), str(seconds + late)) in caught.value.message for late in range(-2, 3))
