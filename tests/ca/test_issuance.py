"""What is issued to whom, and what is entered in the ledger before it leaves."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ca.issuance import IssuanceRefused, IssuedChain
from ca.store.records import CertificateRecord, LedgerFilter, ProgramRecord
from shared.model.identity.identity import Identity, IdentityKind
from shared.model.identity.loaded_code import ApprovedCode, CodeCheck, LoadedCode, LoadedObject
from shared.model.identity.program import Program
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Mode
from shared.model.trust.certificate import BundleVerifier
from shared.model.wire.messages import ProgramEvidence
from tests.ca.founded import NOW, TRUST_DOMAIN, WEB, join, make_csr, opened

CURL = Program(digest="c" * 64)
SIDECAR = Identity(trust_domain=TRUST_DOMAIN, workload=WEB, kind=IdentityKind.SIDECAR)


async def test_permissive_issues_observed_explicit_refuses_approval_issues_the_program(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        issued = await core.issuance.issue_program(SIDECAR, make_csr(), CURL, ProgramEvidence(), NOW)
        assert issued.record.identity.kind is IdentityKind.OBSERVED
        await core.store.namespaces.set_mode("shop", Mode.EXPLICIT)
        with pytest.raises(IssuanceRefused) as caught:
            await core.issuance.issue_program(SIDECAR, make_csr(), CURL, ProgramEvidence(), NOW)
        assert caught.value.reason == Reason.PROGRAM_NOT_APPROVED
        await core.store.namespaces.put_program(
            ProgramRecord(namespace="shop", name="curl", service_account="web", programs=(CURL,), approved_by="ann")
        )
        issued = await core.issuance.issue_program(SIDECAR, make_csr(), CURL, ProgramEvidence(path="/bin/curl"), NOW)
        assert issued.record.identity.kind is IdentityKind.PROGRAM
        assert issued.record.approved_by == "ann"
        assert await core.store.ledger.get(issued.record.serial) == issued.record


LIBC = LoadedObject(path="/lib/libc.so.6", digest="1" * 64)
EVIL = LoadedObject(path="/tmp/evil.so", digest="2" * 64)


@pytest.mark.parametrize(
    ("check", "code", "is_issued"),
    [
        (None, LoadedCode(objects=(LIBC,)), True),
        (None, LoadedCode(objects=(LIBC, EVIL)), False),
        (None, LoadedCode(objects=(LIBC,), anonymous=True), False),
        (None, LoadedCode(objects=(LIBC,), omitted=1), False),
        (None, msgspec.UNSET, False),
        (CodeCheck.REPORT, LoadedCode(objects=(LIBC, EVIL)), True),
        (CodeCheck.REPORT, msgspec.UNSET, True),
    ],
)
async def test_a_program_that_has_loaded_other_code_than_approved_gets_no_certificate(
    tmp_path: Path, check: CodeCheck | None, code: LoadedCode | msgspec.UnsetType, *, is_issued: bool
) -> None:
    """A sidecar that doesn't say what is loaded, as release 0.1, gets none for it either."""
    approved = ApprovedCode(objects=(LIBC,), check=check)
    record = ProgramRecord(namespace="shop", name="curl", service_account="web", programs=(CURL,), code=approved)
    async with opened(tmp_path / "d") as core:
        await core.store.namespaces.put_program(record)
        evidence = ProgramEvidence(path="/bin/curl", code=code)
        if is_issued:
            issued = await core.issuance.issue_program(SIDECAR, make_csr(), CURL, evidence, NOW)
            assert issued.record.identity.kind is IdentityKind.PROGRAM
            return
        with pytest.raises(IssuanceRefused) as caught:
            await core.issuance.issue_program(SIDECAR, make_csr(), CURL, evidence, NOW)
        assert caught.value.reason == Reason.CODE_NOT_APPROVED


async def test_the_chain_verifies_and_only_the_key_comes_from_the_request(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        grant = await join(core, "web-1")
        key = ec.generate_private_key(ec.SECP256R1())
        issued = await core.issuance.issue_sidecar(grant, make_csr(key), NOW)
        chain = [x509.load_der_x509_certificate(der) for der in issued.chain]
        peer = BundleVerifier(core.authorities.bundle()).verify_peer(chain, now=NOW)
        assert peer.identity == SIDECAR
        assert chain[0].public_key() == key.public_key()
        assert not chain[0].subject.rdns


async def test_a_request_that_its_key_did_not_sign_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        grant = await join(core, "web-1")
        csr = bytearray(make_csr())
        csr[-1] ^= 1
        with pytest.raises(IssuanceRefused):
            await core.issuance.issue_sidecar(grant, bytes(csr), NOW)
        assert await core.store.ledger.list_lines() == []


async def test_a_program_does_not_ask_for_programs(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        asker = Identity(trust_domain=TRUST_DOMAIN, workload=WEB, kind=IdentityKind.PROGRAM, program=CURL)
        with pytest.raises(IssuanceRefused):
            await core.issuance.issue_program(asker, make_csr(), CURL, ProgramEvidence(), NOW)


async def test_the_same_key_asking_again_gets_the_same_answer_once_it_is_decided_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer was lost with its stream, perhaps before it was written."""
    async with opened(tmp_path / "d") as core:
        csr, recorded = make_csr(), []
        record, may_go_on = core.store.ledger.record, asyncio.Event()

        async def wait_and_record(certificate: CertificateRecord, *, policy_version: int | None = None) -> None:
            recorded.append(certificate)
            await may_go_on.wait()
            await record(certificate, policy_version=policy_version)

        monkeypatch.setattr(core.store.ledger, "record", wait_and_record)

        async def ask(*, instance: str = "a", now: float = NOW, of: bytes = csr) -> IssuedChain:
            return await core.issuance.issue_program(SIDECAR, of, CURL, ProgramEvidence(), now, instance=instance)

        lost = asyncio.create_task(ask())
        while not recorded:
            await asyncio.sleep(0)
        lost.cancel()
        again = asyncio.create_task(ask(now=NOW + 1))
        await asyncio.sleep(0)
        may_go_on.set()
        first = await again
        assert await ask(now=NOW + 2) is first
        assert len(recorded) == 1
        assert await core.store.ledger.get(first.record.serial) == first.record
        others = [await ask(instance="b"), await ask(of=make_csr()), await ask(now=NOW + 61)]
        assert len({each.record.serial for each in (first, *others)}) == 4
        # What nobody is given any more isn't kept: by a clock that was set back it would be given again.
        assert (await ask(instance="b", now=NOW + 2)).record.serial != others[0].record.serial
        await core.store.namespaces.set_mode("shop", Mode.EXPLICIT)
        with pytest.raises(IssuanceRefused):
            await ask(now=NOW + 62)


async def test_many_at_once_are_all_in_the_ledger(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        csr = make_csr()
        issued = await asyncio.gather(
            *(core.issuance.issue_program(SIDECAR, csr, CURL, ProgramEvidence(), NOW) for _ in range(40))
        )
        assert {c.serial for c in await core.store.ledger.list_lines(LedgerFilter(alive_at=NOW))} == {
            i.record.serial for i in issued
        }
