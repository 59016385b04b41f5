"""An evicted sidecar's certificates are distrusted until they end, and it can't come back (``ca.store.eviction``)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from cryptography import x509
from sqlalchemy import delete

from ca.authenticate.sidecar_certificate import CertificateAuthentication
from ca.issuance import IssuedChain
from ca.store import evictions
from ca.store.authority_records import note_restoration
from ca.store.records import JoinGrant
from ca.store.tables import certificates
from shared.model.errors import ConflictError, NotFoundError, RefusedError, VerificationError
from shared.model.policy.reasons import Reason
from shared.model.trust.bundle import name_serial
from shared.model.trust.certificate import BundleVerifier
from shared.model.wire.admin_audit import read_entry
from tests.ca.founded import DATABASE, NOW, WEB, Founded, join, make_csr, make_rotation, opened, registration, spend


async def join_and_issue(core: Founded, instance: str) -> tuple[JoinGrant, IssuedChain]:
    grant = await join(core, instance)
    return grant, await core.issuance.issue_sidecar(grant, make_csr(), NOW)


async def test_its_certificates_are_distrusted_and_others_are_not(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        _, evil = await join_and_issue(core, "evil")
        _, good = await join_and_issue(core, "good")
        before = core.authorities.bundle().sequence
        done = await core.store.evictions.evict("evil", now=NOW)
        assert (done.instances, done.certificates, done.ends) == (("evil",), 1, evil.record.not_after)
        await core.authorities.reload()
        bundle = core.authorities.bundle()
        assert bundle.distrusted == (name_serial(evil.record.serial),)
        assert bundle.sequence == before + 1
        authentication = CertificateAuthentication(store=core.store, authorities=core.authorities)
        with pytest.raises(VerificationError) as caught:
            await authentication.authenticate(x509.load_der_x509_certificate(evil.chain[0]), claimed="evil", now=NOW)
        assert caught.value.reason == Reason.PEER_DISTRUSTED
        await authentication.authenticate(x509.load_der_x509_certificate(good.chain[0]), claimed="good", now=NOW)
        (line,) = (await core.store.audit.list_lines(limit=1, newest=True)).lines
        assert (read_entry(line).act, read_entry(line).subject) == ("sidecar.evict", "evil")
        with pytest.raises(NotFoundError):
            await core.store.evictions.evict("nobody", now=NOW)


async def test_it_gets_no_certificate_any_more_also_not_one_that_is_being_signed(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        grant, _ = await join_and_issue(core, "evil")

        async def issue() -> IssuedChain | RefusedError:
            try:
                return await core.issuance.issue_sidecar(grant, make_csr(), NOW)
            except RefusedError as error:
                return error

        *results, done = await asyncio.gather(
            *(issue() for _ in range(10)), core.store.evictions.evict("evil", now=NOW), return_exceptions=True
        )
        issued = [one.record.serial for one in results if isinstance(one, IssuedChain)]
        assert len(issued) + sum(isinstance(one, RefusedError) for one in results) == 10
        assert {f"{serial:x}" for serial in issued} <= {
            each.removeprefix("serial:") for each in await core.store.evictions.list_distrusted()
        }
        assert isinstance(done, evictions.Eviction) and done.certificates == len(issued) + 1
        assert isinstance(await issue(), RefusedError)


async def test_it_comes_back_by_a_token_that_was_made_afterwards_alone(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        grant, _ = await join_and_issue(core, "evil")
        early = await core.store.join_tokens.create(workload=WEB, addresses=(), labels={}, expires=NOW + 99, now=NOW)
        await core.store.evictions.evict("evil", now=NOW + 1)
        with pytest.raises(RefusedError, match="evicted"):
            await core.store.sidecars.register(grant, registration("evil"), now=NOW + 1)
        with pytest.raises(RefusedError, match="evicted"):
            await core.store.evictions.check("evil")
        with pytest.raises(RefusedError, match="evicted"):
            await spend(core.store, early[0].token_id, early[1], "evil", now=NOW + 2)
        token = await core.store.join_tokens.get(early[0].token_id)
        assert token is not None and token.spent is None
        await join(core, "evil", now=NOW + 2)
        await core.store.evictions.check("evil")
        await core.issuance.issue_sidecar(grant, make_csr(), NOW + 2)
        acts = [read_entry(line).act for line in (await core.store.audit.list_lines(limit=5, newest=True)).lines]
        assert "sidecar.readmit" in acts


async def test_an_evicted_pods_sidecar_never_comes_back_and_a_new_pod_of_its_name_does(tmp_path: Path) -> None:
    def make_grant(uid: str) -> JoinGrant:
        return JoinGrant(workload=WEB, addresses=(), instance="web-0", pod_uid=uid)

    async with opened(tmp_path / "d") as core:
        enter = core.store.enrolment.enter_pod
        await enter(make_grant("1"), registration("web-0"), key_digest=b"key", now=NOW)
        await core.store.evictions.evict("web-0", now=NOW)
        # Nor is the eviction forgotten for its silence.
        assert await core.store.sidecars.delete_silent(silent_since=NOW + 9e6, now=NOW + 9e6) == 0
        with pytest.raises(RefusedError, match="evicted") as caught:
            await enter(make_grant("1"), registration("web-0"), key_digest=b"key", now=NOW + 9e6)
        assert "delete the pod" in caught.value.hint
        await enter(make_grant("2"), registration("web-0"), key_digest=b"key", now=NOW)
        await core.store.evictions.evict("web-0", now=NOW)
        assert await core.store.sidecars.delete_of_pods(["2"]) == 1
        assert await core.store.evictions.list_instances() == frozenset()


async def test_a_workload_goes_with_all_its_sidecars_and_open_tokens_and_no_others(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await join_and_issue(core, "web-1")
        await join_and_issue(core, "web-2")
        await join(core, "db-1", DATABASE)
        create = core.store.join_tokens.create
        token, _ = await create(workload=WEB, addresses=(), labels={}, expires=NOW + 99, now=NOW)
        kept, _ = await create(workload=DATABASE, addresses=(), labels={}, expires=NOW + 99, now=NOW)
        done = await core.store.evictions.evict(WEB, now=NOW)
        assert (done.instances, done.certificates, done.tokens) == (("web-1", "web-2"), 2, (token.token_id,))
        assert kept.token_id in {one.token_id for one in await core.store.join_tokens.list_all()}
        await core.store.evictions.check("db-1")


async def test_nothing_waits_for_an_evicted_sidecar_and_its_address_stays_listed_until_its_certificates_end(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path / "d") as core:
        await join_and_issue(core, "evil")
        await core.store.evictions.evict("evil", now=NOW)
        assert await core.store.sidecars.list_live(now=NOW) == []
        (listed,) = await core.store.sidecars.list_live(now=NOW, with_evicted=True)
        assert (listed.evicted, listed.connected) == (NOW, False)
        assert await core.store.sidecars.list_live(now=NOW + 90_000, with_evicted=True) == []
        rotation = make_rotation(core.store, core.authorities)
        status = await rotation.start(now=NOW)
        assert status.waiting_for == ()


async def test_the_list_prunes_itself_after_the_certificates_ends(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        _, evil = await join_and_issue(core, "evil")
        await core.store.evictions.evict("evil", now=NOW)
        sequence = await core.store.authorities.get_sequence()
        # Not at once: a verifier whose clock is behind would take it for valid again.
        last = evil.record.not_after + evictions.CLOCKS_BEHIND_S
        assert await core.store.evictions.prune(now=last - 1) == 0
        assert await core.store.authorities.get_sequence() == sequence
        assert await core.store.evictions.prune(now=last) == 1
        assert await core.store.authorities.get_sequence() == sequence + 1
        await core.authorities.reload()
        assert core.authorities.bundle().distrusted == ()
        # It stays out nevertheless.
        with pytest.raises(RefusedError):
            await core.store.evictions.check("evil")


async def test_what_a_pod_that_is_gone_has_left_is_distrusted_as_well(tmp_path: Path) -> None:
    """Who has its keys still has them when the pod was deleted."""
    async with opened(tmp_path / "d") as core:
        grant = JoinGrant(workload=WEB, addresses=(), instance="web-0", pod_uid="1")
        await core.store.enrolment.enter_pod(grant, registration("web-0"), key_digest=b"key", now=NOW)
        stolen = await core.issuance.issue_sidecar(grant, make_csr(), NOW)
        assert await core.store.sidecars.delete_of_pods(["1"]) == 1
        done = await core.store.evictions.evict("web-0", now=NOW)
        assert (done.instances, done.certificates) == (("web-0",), 1)
        assert await core.store.evictions.list_distrusted() == (name_serial(stolen.record.serial),)
        # Of a workload as well, beside sidecars that are there.
        grant = JoinGrant(workload=DATABASE, addresses=(), instance="db-0", pod_uid="2")
        await core.store.enrolment.enter_pod(grant, registration("db-0"), key_digest=b"key", now=NOW)
        await core.issuance.issue_sidecar(grant, make_csr(), NOW)
        assert await core.store.sidecars.delete_of_pods(["2"]) == 1
        await join(core, "db-1", DATABASE)
        done = await core.store.evictions.evict(DATABASE, now=NOW)
        assert (done.instances, done.certificates) == (("db-0", "db-1"), 1)
        # Nothing of it is kept for ever.
        assert await core.store.evictions.list_instances() == {"db-1"}


async def test_a_sidecar_cannot_get_so_many_certificates_that_it_cannot_be_evicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evictions, "MAX_ONE_BY_ONE", 2)
    monkeypatch.setattr(evictions, "MAX_DISTRUSTED_LEAVES", 2)
    async with opened(tmp_path / "d") as core:
        grant, _ = await join_and_issue(core, "evil")
        chains = [(await core.issuance.issue_sidecar(grant, make_csr(), NOW + i)).chain for i in range(3)]
        _, good = await join_and_issue(core, "good")
        done = await core.store.evictions.evict("evil", now=NOW + 3)
        assert (done.certificates, len(await core.store.evictions.list_distrusted())) == (4, 1)
        await core.authorities.reload()
        verifier = BundleVerifier(core.authorities.bundle())
        for chain in chains:
            with pytest.raises(VerificationError, match="evicted"):
                verifier.verify_peer([x509.load_der_x509_certificate(der) for der in chain], now=NOW + 3)
        verifier.verify_peer([x509.load_der_x509_certificate(der) for der in good.chain], now=NOW + 3)
        # Its next certificates would be backdated to before its eviction.
        with pytest.raises(RefusedError, match="a moment ago"):
            await join(core, "evil", now=NOW + 100)
        later = NOW + 200
        grant = await join(core, "evil", now=later)
        fresh = await core.issuance.issue_sidecar(grant, make_csr(), later)
        verifier.verify_peer([x509.load_der_x509_certificate(der) for der in fresh.chain], now=later)


async def test_after_a_restore_a_sidecar_is_evicted_with_certificates_that_the_ledger_lacks(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        _, unknown = await join_and_issue(core, "evil")
        async with core.store.database.writing() as connection:
            await note_restoration(core.store.database, connection, taken=NOW - 1, now=NOW)
            await connection.execute(delete(certificates))
        known = await core.store.evictions.evict("evil", now=NOW + 1)
        missing = await core.store.evictions.evict("joined-after-the-backup", now=NOW + 1)
        assert (known.is_unknown, missing.is_unknown) == (False, True)
        await core.authorities.reload()
        with pytest.raises(VerificationError, match="evicted"):
            chain = [x509.load_der_x509_certificate(der) for der in unknown.chain]
            BundleVerifier(core.authorities.bundle()).verify_peer(chain, now=NOW + 1)


async def test_after_a_restore_an_evicted_sidecar_that_the_store_doesnt_know_cannot_join(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        early = await core.store.join_tokens.create(workload=WEB, addresses=(), labels={}, expires=NOW + 999, now=NOW)
        async with core.store.database.writing() as connection:
            await note_restoration(core.store.database, connection, taken=NOW - 1, now=NOW)
        await core.store.evictions.evict("joined-after-the-backup", now=NOW + 1)
        await core.store.evictions.evict("web-0.00000001", now=NOW + 1)
        with pytest.raises(RefusedError, match="evicted"):
            await spend(core.store, early[0].token_id, early[1], "joined-after-the-backup", now=NOW + 2)
        grant = JoinGrant(workload=WEB, addresses=(), instance="web-0.00000001", pod_uid="00000001-x")
        with pytest.raises(RefusedError, match="evicted") as caught:
            said = registration("web-0.00000001")
            await core.store.enrolment.enter_pod(grant, said, key_digest=b"key", now=NOW + 9)
        assert "delete the pod" in caught.value.hint
        await join(core, "joined-after-the-backup", now=NOW + 200)


@pytest.mark.parametrize("bound", ["MAX_DISTRUSTED_LEAVES", "MAX_EVICTED_AT_ONCE"])
async def test_the_list_is_bounded_and_beyond_it_nothing_is_evicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(evictions, bound, 1)
    async with opened(tmp_path / "d") as core:
        await join_and_issue(core, "web-1")
        await join_and_issue(core, "web-2")
        with pytest.raises(ConflictError) as caught:
            await core.store.evictions.evict(WEB, now=NOW)
        assert "taint" in caught.value.hint
        assert await core.store.evictions.list_instances() == frozenset()
        assert len(await core.store.sidecars.list_live(now=NOW)) == 2
