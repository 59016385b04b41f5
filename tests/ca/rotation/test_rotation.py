"""A rotation waits, names laggards, survives a kill at each step, and can be reverted."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from cryptography import x509

from ca.rotation import rotation as rotation_module
from ca.store.records import RotationStep
from shared.model.errors import ConflictError, VerificationError
from shared.model.policy.reasons import Reason
from shared.model.trust.bundle import AuthorityPhase
from shared.model.trust.certificate import BundleVerifier, common_name
from tests.ca.founded import NOW, Founded, join, make_csr, make_rotation, opened
from tests.ca.running import eventually


async def issue(core: Founded, instance: str = "web-1", now: float = NOW) -> list[x509.Certificate]:
    grant = await core.store.sidecars.get(instance)
    assert grant is not None
    issued = await core.issuance.issue_sidecar(grant.grant, make_csr(), now)
    return [x509.load_der_x509_certificate(der) for der in issued.chain]


async def test_activation_waits_for_every_live_sidecar_and_names_the_laggard(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await join(core, "web-1")
        await join(core, "web-2")
        before = core.authorities.active.authority_id
        rotation = make_rotation(core.store, core.authorities)
        status = await rotation.start(now=NOW)
        assert status.step is RotationStep.PREPARED
        assert status.waiting_for == ("web-1", "web-2")
        await core.store.sidecars.mark_bundle_installed("web-1", status.sequence)
        await rotation.advance(NOW)
        assert core.authorities.active.authority_id == before
        with pytest.raises(ConflictError, match="web-2"):
            await rotation.start(now=NOW)
        await core.store.sidecars.mark_bundle_installed("web-2", status.sequence)
        await rotation.advance(NOW)
        assert core.authorities.active.authority_id != before


async def test_a_disconnected_sidecar_counts_while_its_certificate_is_alive(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await join(core, "web-1")
        await issue(core)
        await core.store.sidecars.mark_seen("web-1", connected=False, now=NOW)
        rotation = make_rotation(core.store, core.authorities)
        assert (await rotation.start(now=NOW)).waiting_for == ("web-1",)
        await rotation.advance(NOW + 3601)
        status = await rotation.status(NOW + 3601)
        assert status is not None
        assert status.step is RotationStep.ACTIVE


async def test_foreign_peers_get_their_minimum_wait(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        rotation = make_rotation(core.store, core.authorities, minimum_s=60)
        assert (await rotation.start(now=NOW)).step is RotationStep.PREPARED
        await rotation.advance(NOW + 61)
        status = await rotation.status(NOW + 61)
        assert status is not None
        assert status.step is not RotationStep.PREPARED


async def test_killed_at_every_step_it_goes_on_where_it_stood(tmp_path: Path) -> None:
    """The store is opened anew before each step; certificates of both authorities hold all along."""
    async with opened(tmp_path / "d") as core:
        await join(core, "web-1")
        old = await issue(core)
        sequence = (await make_rotation(core.store, core.authorities).start(now=NOW)).sequence
    async with opened(tmp_path / "d") as core:
        rotation = make_rotation(core.store, core.authorities)
        status = await rotation.status(NOW)
        assert status is not None
        assert status.step is RotationStep.PREPARED
        await core.store.sidecars.mark_bundle_installed("web-1", sequence)
    async with opened(tmp_path / "d") as core:
        await make_rotation(core.store, core.authorities).advance(NOW)
        new = await issue(core)
        assert common_name(new[0].issuer) != common_name(old[0].issuer)
    async with opened(tmp_path / "d") as core:
        await make_rotation(core.store, core.authorities).advance(NOW + 1)  # The old one has signed something alive.
        verifier = BundleVerifier(core.authorities.bundle())
        verifier.verify_peer(old, now=NOW + 1)
        verifier.verify_peer(new, now=NOW + 1)
    async with opened(tmp_path / "d") as core:
        later = NOW + 3601
        await make_rotation(core.store, core.authorities).advance(later)
        retired = [r for r in await core.store.authorities.list_all() if r.phase is AuthorityPhase.RETIRED]
        assert [r.sealed_key for r in retired] == [b""]
        with pytest.raises(VerificationError):
            BundleVerifier(core.authorities.bundle()).verify_peer(old, now=NOW)
        assert [entry.event for entry in await core.store.authorities.list_journal()][:3] == [
            "retired",
            "active",
            "prepared",
        ]


async def test_force_activates_without_the_laggard_and_says_so_in_the_journal(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await join(core, "web-1")
        await issue(core)
        rotation = make_rotation(core.store, core.authorities)
        await rotation.start(now=NOW)
        status = await rotation.start(force=True, now=NOW)
        assert (status.step, status.forced) == (RotationStep.ACTIVE, True)
        assert "web-1" in (await core.store.authorities.list_journal())[0].detail


@pytest.mark.parametrize("force", [False, True])
async def test_reverting_lets_the_previous_authority_sign(tmp_path: Path, force: bool) -> None:
    async with opened(tmp_path / "d") as core:
        await join(core, "web-1")
        await issue(core)
        before = core.authorities.active.authority_id
        rotation = make_rotation(core.store, core.authorities)
        await rotation.start(force=force, now=NOW)
        status = await rotation.revert(NOW)
        assert status.step is RotationStep.REVERTED
        assert core.authorities.active.authority_id == before
        await rotation.advance(NOW)
        phases = [r.phase for r in await core.store.authorities.list_all()]
        assert phases.count(AuthorityPhase.ACTIVE) == 2  # root and issuer
        assert phases.count(AuthorityPhase.RETIRED) == 1
        with pytest.raises(ConflictError):
            await rotation.revert(NOW)


async def test_a_tainted_authority_is_refused_and_stays_so(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await join(core, "web-1")
        old = await issue(core)
        tainted = core.authorities.active.authority_id
        rotation = make_rotation(core.store, core.authorities)
        with pytest.raises(ConflictError):
            await rotation.taint(tainted, NOW)
        await rotation.start(force=True, now=NOW)
        await rotation.taint(tainted, NOW)
        with pytest.raises(VerificationError) as caught:
            BundleVerifier(core.authorities.bundle()).verify_peer(old, now=NOW)
        assert caught.value.reason == Reason.PEER_DISTRUSTED
        with pytest.raises(ConflictError):
            await rotation.revert(NOW)
        await rotation.advance(NOW + 3601)
        assert len(core.authorities.bundle().distrusted) == 1


async def test_an_issuance_that_races_with_retirement_is_signed_anew(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core, opened(tmp_path / "d") as other:
        await join(core, "web-1")
        await core.store.sidecars.mark_seen("web-1", connected=False, now=NOW)
        rotation = make_rotation(other.store, other.authorities)
        await rotation.start(force=True, now=NOW)
        await rotation.advance(NOW)
        stale = core.authorities.active.authority_id
        chain = await issue(core)
        assert core.authorities.active.authority_id != stale
        BundleVerifier(core.authorities.bundle()).verify_peer(chain, now=NOW)


async def test_a_rotation_begins_by_itself_before_the_authority_ends(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        rotation = make_rotation(core.store, core.authorities)
        await rotation.advance(NOW + 50 * 86_400)
        assert await rotation.status(NOW) is None
        await rotation.advance(NOW + 61 * 86_400)
        assert await rotation.status(NOW) is not None


async def test_who_does_not_lead_looks_and_does_what_an_operator_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation_module, "POLL_S", 0.02)
    async with opened(tmp_path / "d") as core, opened(tmp_path / "d") as other:
        leader = make_rotation(core.store, core.authorities, clock=lambda: NOW)
        follower = make_rotation(other.store, other.authorities, is_leader=lambda: False, clock=lambda: NOW)
        task = asyncio.create_task(follower.run())
        try:
            await join(core, "web-1")
            status = await follower.start(now=NOW)
            await core.store.sidecars.mark_bundle_installed("web-1", status.sequence)
            await asyncio.sleep(0.2)
            rotation = await other.store.authorities.get_rotation()
            assert rotation is not None and rotation.step is RotationStep.PREPARED
            before = other.authorities.active.authority_id
            await leader.advance(NOW)
            await eventually(lambda: other.authorities.active.authority_id != before)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_retired_issuer_can_be_tainted_since_connections_outlive_their_certificates(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await join(core, "web-1")
        rotation = make_rotation(core.store, core.authorities)
        retired = core.authorities.active.record
        await rotation.start(force=True, now=NOW)  # It has signed nothing, so it retires at once.
        before = core.authorities.bundle()
        await rotation.taint(retired.authority_id, NOW)
        bundle = core.authorities.bundle()
        assert bundle.distrusted == (retired.public_key_digest,)
        assert bundle.sequence == before.sequence + 1
