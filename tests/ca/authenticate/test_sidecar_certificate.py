"""A sidecar's own certificate speaks for it: in the bundle, in the ledger, and only the newest joining."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ca.authenticate.sidecar_certificate import CertificateAuthentication
from ca.authority.sign import sign_leaf
from ca.issuance import IssuedChain
from shared.model.errors import RefusedError, VerificationError
from shared.model.identity.identity import Identity, IdentityKind
from shared.model.identity.program import Program
from shared.model.wire.messages import ProgramEvidence
from tests.ca.founded import NOW, TRUST_DOMAIN, WEB, Founded, join, make_csr, make_rotation, opened

SIDECAR = Identity(trust_domain=TRUST_DOMAIN, workload=WEB, kind=IdentityKind.SIDECAR)


def load(issued: IssuedChain) -> x509.Certificate:
    return x509.load_der_x509_certificate(issued.chain[0])


def make(core: Founded) -> CertificateAuthentication:
    return CertificateAuthentication(store=core.store, authorities=core.authorities)


async def test_its_certificate_gives_back_the_grant_and_expired_it_does_not(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        grant = await join(core, "one", WEB, "198.18.0.2")
        leaf = load(await core.issuance.issue_sidecar(grant, make_csr(), NOW))
        certificates = make(core)
        assert await certificates.authenticate(leaf, claimed="one", now=NOW) == grant
        with pytest.raises(VerificationError):
            await certificates.authenticate(leaf, claimed="one", now=NOW + 3601)


async def test_a_programs_certificate_does_not_speak_for_the_sidecar(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await join(core, "one")
        issued = await core.issuance.issue_program(
            SIDECAR, make_csr(), Program(digest="a" * 64), ProgramEvidence(), NOW, instance="one"
        )
        with pytest.raises(RefusedError, match="speak"):
            await make(core).authenticate(load(issued), claimed="one", now=NOW)


async def test_a_certificate_that_the_ledger_does_not_hold_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await join(core, "one")
        active = core.authorities.active
        key = ec.generate_private_key(ec.SECP256R1()).public_key()
        leaf = sign_leaf(active, key, SIDECAR, serial=1 << 130, now=NOW, lifetime_s=3600).certificate
        with pytest.raises(RefusedError, match="ledger"):
            await make(core).authenticate(leaf, claimed="one", now=NOW)


async def test_after_joining_anew_the_old_key_speaks_no_more(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        grant = await join(core, "one")
        leaf = load(await core.issuance.issue_sidecar(grant, make_csr(), NOW))
        await core.store.sidecars.mark_seen("one", connected=False, now=NOW)
        await join(core, "one", key=b"another", now=NOW + 5)
        with pytest.raises(RefusedError, match="anew"):
            await make(core).authenticate(leaf, claimed="one", now=NOW + 5)


async def test_the_verifier_is_kept_until_the_bundle_changes(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        certificates = make(core)
        first = certificates.verifier
        assert certificates.verifier is first
        await make_rotation(core.store, core.authorities, minimum_s=60).start(now=NOW)
        assert certificates.verifier is not first
        assert certificates.verifier.bundle == core.authorities.bundle()
