"""Credentials: what the CA issued must hold before it is used."""

from __future__ import annotations

import time

import pytest

from shared.model.identity.identity import Identity, IdentityKind, Workload
from shared.model.policy.reasons import Reason
from sidecar.credential.credential import CredentialError, accept_chain, make_key_request
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
