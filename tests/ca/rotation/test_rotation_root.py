"""A root rotates with its issuer: both are trusted before anything is signed, and tokens hold the old root."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509

from ca.authority.published_roots import NotPublished
from ca.rotation.rotation import Rotation
from ca.store.records import AuthorityKind, RotationStep
from shared.model.errors import ConflictError, NotFoundError, VerificationError
from shared.model.policy.reasons import Reason
from shared.model.trust.bundle import AuthorityPhase, RotationKind
from shared.model.trust.certificate import BundleVerifier
from tests.ca.founded import NOW, WEB, Founded, join, make_csr, make_rotation, opened, spend

ROOT = RotationKind.ROOT
DAY_S = 86_400.0
LATER = NOW + 3601  # Nothing that was signed at NOW is alive.


async def issue(core: Founded, instance: str = "web-1", now: float = NOW) -> list[x509.Certificate]:
    record = await core.store.sidecars.get(instance)
    assert record is not None
    issued = await core.issuance.issue_sidecar(record.grant, make_csr(), now)
    return [x509.load_der_x509_certificate(der) for der in issued.chain]


async def leave(core: Founded, instance: str = "web-1") -> None:
    await core.store.sidecars.mark_seen(instance, connected=False, now=NOW)


async def phases(core: Founded, kind: AuthorityKind) -> list[AuthorityPhase]:
    return [r.phase for r in await core.store.authorities.list_all() if r.kind is kind]


async def check_chains(core: Founded, *chains: list[x509.Certificate], now: float = NOW) -> None:
    verifier = BundleVerifier((await core.authorities.reload()).bundle)
    for chain in chains:
        verifier.verify_peer(chain, now=now)


async def test_both_roots_are_in_the_bundle_before_anything_is_signed_with_the_new_one(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await join(core, "web-1")
        before = core.authorities.snapshot
        rotation = make_rotation(core.store, core.authorities)
        status = await rotation.start(kind=ROOT, now=NOW)
        assert (status.kind, status.step, status.waiting_for) == (ROOT, RotationStep.PREPARED, ("web-1",))
        bundle = core.authorities.bundle()
        assert bundle.sequence == status.sequence > before.bundle.sequence
        assert (len(bundle.roots), len(bundle.issuers)) == (2, 2)
        old = await issue(core)
        assert old[1].issuer == before.root.certificate.subject
        await core.store.sidecars.mark_bundle_installed("web-1", status.sequence)
        await rotation.advance(NOW)
        new = await issue(core)
        snapshot = core.authorities.snapshot
        assert new[1].issuer == snapshot.root.certificate.subject != before.root.certificate.subject
        assert core.authorities.root_pin == snapshot.root.record.public_key_digest
        assert core.authorities.bundle() == bundle
        await check_chains(core, old, new)


async def test_killed_at_every_step_it_goes_on_where_it_stood(tmp_path: Path) -> None:
    """The store is opened anew before each step; certificates below both roots hold all along."""
    async with opened(tmp_path / "d") as core:
        await join(core, "web-1")
        old = await issue(core)
        sequence = (await make_rotation(core.store, core.authorities).start(kind=ROOT, now=NOW)).sequence
        await check_chains(core, old)
    async with opened(tmp_path / "d") as core:
        status = await make_rotation(core.store, core.authorities).status(NOW)
        assert status is not None
        assert (status.kind, status.step, status.waiting_for) == (ROOT, RotationStep.PREPARED, ("web-1",))
        await core.store.sidecars.mark_bundle_installed("web-1", sequence)
    async with opened(tmp_path / "d") as core:
        await make_rotation(core.store, core.authorities).advance(NOW)
        new = await issue(core, now=NOW + 10)
        await check_chains(core, old, new, now=NOW + 10)
    async with opened(tmp_path / "d") as core:
        rotation = make_rotation(core.store, core.authorities)
        await rotation.advance(NOW + 10)
        status = await rotation.status(NOW + 10)
        assert status is not None
        assert (status.step, status.alive_of_previous) == (RotationStep.ACTIVE, 1)
        await check_chains(core, old, new, now=NOW + 10)
    async with opened(tmp_path / "d") as core:
        await make_rotation(core.store, core.authorities).advance(LATER)
        for kind in AuthorityKind:
            assert await phases(core, kind) == [AuthorityPhase.RETIRED, AuthorityPhase.ACTIVE]
        retired = [r for r in await core.store.authorities.list_all() if r.phase is AuthorityPhase.RETIRED]
        assert [r.sealed_key for r in retired] == [b"", b""]
        assert len(core.authorities.bundle().roots) == 1
        await check_chains(core, new, now=LATER)
        with pytest.raises(VerificationError):
            await check_chains(core, old)
        events = [entry.event for entry in await core.store.authorities.list_journal()]
        assert events[:5] == ["retired", "active", "published", "prepared", "prepared"]


async def test_every_issuer_below_the_old_root_goes_with_it_and_none_before_it_is_dead(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await join(core, "web-1")
        await leave(core)
        await issue(core)
        rotation = make_rotation(core.store, core.authorities)
        await rotation.start(force=True, now=NOW)
        await issue(core, now=NOW + 60)
        await rotation.revert(NOW + 60)  # Two issuers below the root have signed something that is alive.
        await rotation.start(force=True, kind=ROOT, now=NOW + 61)
        await rotation.advance(LATER)
        status = await rotation.status(LATER)
        assert status is not None
        assert (status.step, status.alive_of_previous) == (RotationStep.ACTIVE, 1)
        await rotation.advance(LATER + 60)
        retired, active = AuthorityPhase.RETIRED, AuthorityPhase.ACTIVE
        assert await phases(core, AuthorityKind.ISSUING) == [retired, retired, active]
        assert await phases(core, AuthorityKind.ROOT) == [retired, active]


class PartlyPublished(NotPublished):
    """Places that lack a root, as the test says."""

    def __init__(self, *lacking: str) -> None:
        self.lacking = list(lacking)
        self.asked: list[bytes] = []

    def list_lacking(self, root: bytes) -> list[str]:
        self.asked.append(root)
        return self.lacking


async def test_what_outside_the_ca_lacks_the_new_root_is_named_and_waited_for(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        published = PartlyPublished("ConfigMap shop/touchmark-trust")
        lacking = published.lacking

        def make() -> Rotation:
            return make_rotation(core.store, core.authorities, delivery_s=120, published=published)

        status = await make().start(kind=ROOT, now=NOW)
        assert (status.unpublished, status.ready_at) == (tuple(lacking), None)
        await make().advance(NOW + 1000)
        with pytest.raises(ConflictError, match="shop/touchmark-trust"):
            await make().start(kind=ROOT, now=NOW)
        assert {*published.asked} == {core.authorities.bundle().roots[1]}
        lacking.clear()
        await make().advance(NOW + 1000)
        found = await make().status(NOW + 1000)
        assert found is not None
        assert (found.step, found.unpublished, found.ready_at) == (RotationStep.PREPARED, (), NOW + 1120)
        lacking.append("a new namespace's, which has both roots in a moment")
        await make().advance(NOW + 1119)
        assert (await phases(core, AuthorityKind.ROOT))[1] is AuthorityPhase.PREPARED
        await make().advance(NOW + 1121)
        assert (await phases(core, AuthorityKind.ROOT))[1] is AuthorityPhase.ACTIVE


async def test_force_leaves_the_old_root_in_place_until_the_new_one_was_delivered(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        published = PartlyPublished("webhook configuration touchmark")
        lacking = published.lacking
        rotation = make_rotation(core.store, core.authorities, delivery_s=120, published=published)
        await join(core, "web-1")
        await rotation.start(kind=ROOT, now=NOW)
        status = await rotation.start(kind=ROOT, force=True, now=NOW)
        assert (status.step, status.forced) == (RotationStep.ACTIVE, True)
        detail = (await core.store.authorities.list_journal())[0].detail
        assert "web-1" in detail and "webhook configuration" in detail
        await rotation.advance(LATER)
        assert (await phases(core, AuthorityKind.ROOT))[0] is AuthorityPhase.OLD
        lacking.clear()
        await rotation.advance(LATER)
        await rotation.advance(LATER + 119)
        assert (await phases(core, AuthorityKind.ROOT))[0] is AuthorityPhase.OLD
        await rotation.advance(LATER + 121)
        assert (await phases(core, AuthorityKind.ROOT))[0] is AuthorityPhase.RETIRED


async def test_an_open_join_token_holds_the_root_that_it_pins_and_is_named(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        make = core.store.join_tokens.create
        early, secret = await make(workload=WEB, addresses=(), labels={}, expires=NOW + 600, now=NOW)
        idle, _ = await make(workload=WEB, addresses=(), labels={}, expires=NOW + 900, now=NOW)
        assert early.root_pin == idle.root_pin == core.authorities.root_pin
        rotation = make_rotation(core.store, core.authorities)
        status = await rotation.start(kind=ROOT, now=NOW)
        assert status.step is RotationStep.ACTIVE
        assert [token.token_id for token in status.tokens] == [early.token_id, idle.token_id]
        late, _ = await make(workload=WEB, addresses=(), labels={}, expires=NOW + DAY_S, now=NOW)
        assert late.root_pin == core.authorities.root_pin != early.root_pin
        assert core.authorities.accepted_pins == {early.root_pin, late.root_pin}
        await spend(core.store, early.token_id, secret, "web-1", now=NOW + 1)
        await rotation.advance(NOW + 1)
        found = await rotation.status(NOW + 1)
        assert found is not None and [token.token_id for token in found.tokens] == [idle.token_id]
        await rotation.advance(NOW + 901)
        assert (await phases(core, AuthorityKind.ROOT))[0] is AuthorityPhase.RETIRED
        assert core.authorities.accepted_pins == {late.root_pin}


@pytest.mark.parametrize("force", [False, True])
async def test_reverting_puts_both_back(tmp_path: Path, force: bool) -> None:
    async with opened(tmp_path / "d") as core:
        await join(core, "web-1")
        old = await issue(core)
        before = core.authorities.snapshot
        rotation = make_rotation(core.store, core.authorities)
        assert (await rotation.start(kind=ROOT, force=force, now=NOW)).is_reversible
        new = await issue(core)
        make = core.store.join_tokens.create
        token, _ = await make(workload=WEB, addresses=(), labels={}, expires=NOW + DAY_S, now=NOW)
        status = await rotation.revert(NOW)
        assert status.step is RotationStep.REVERTED
        snapshot = core.authorities.snapshot
        assert (snapshot.root.authority_id, snapshot.active.authority_id) == (
            before.root.authority_id,
            before.active.authority_id,
        )
        await check_chains(core, old, new)
        await rotation.advance(LATER)
        issuers, roots = await phases(core, AuthorityKind.ISSUING), await phases(core, AuthorityKind.ROOT)
        # What was active for a moment has a token that pins it: the root stays as long as that is open, with an issuer.
        left = AuthorityPhase.OLD if force else AuthorityPhase.RETIRED
        assert issuers == roots == [AuthorityPhase.ACTIVE, left]
        assert len(core.authorities.snapshot.server_signers) == (2 if force else 1)
        assert (token.root_pin == before.root.record.public_key_digest) is not force
        await rotation.advance(NOW + DAY_S + 1)
        for kind in AuthorityKind:
            assert await phases(core, kind) == [AuthorityPhase.ACTIVE, AuthorityPhase.RETIRED]
        with pytest.raises(ConflictError):
            await rotation.revert(LATER)


async def test_one_rotation_at_a_time_and_force_is_for_its_own_kind(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await join(core, "web-1")
        rotation = make_rotation(core.store, core.authorities)
        await rotation.start(kind=ROOT, now=NOW)
        for force in (False, True):
            with pytest.raises(ConflictError, match="rotation of the root is under way"):
                await rotation.start(force=force, now=NOW)
        assert (await phases(core, AuthorityKind.ROOT))[1] is AuthorityPhase.PREPARED


async def test_a_root_waits_for_no_issuer_that_retires_and_takes_it_along(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await join(core, "web-1")
        await leave(core)
        first = await issue(core)
        rotation = make_rotation(core.store, core.authorities)
        await rotation.start(force=True, now=NOW)
        second = await issue(core, now=NOW + 60)
        status = await rotation.start(force=True, kind=ROOT, now=NOW + 60)
        assert (status.step, status.alive_of_previous) == (RotationStep.ACTIVE, 2)
        third = await issue(core, now=NOW + 60)
        await check_chains(core, first, second, third, now=NOW + 60)
        assert "superseded" in [entry.event for entry in await core.store.authorities.list_journal()]
        with pytest.raises(ConflictError, match="hasn't retired"):
            await rotation.start(kind=ROOT, now=NOW + 60)
        await rotation.advance(LATER)
        assert await phases(core, AuthorityKind.ROOT) == [AuthorityPhase.OLD, AuthorityPhase.ACTIVE]
        await rotation.advance(LATER + 60)
        assert await phases(core, AuthorityKind.ROOT) == [AuthorityPhase.RETIRED, AuthorityPhase.ACTIVE]
        retired, active = AuthorityPhase.RETIRED, AuthorityPhase.ACTIVE
        assert await phases(core, AuthorityKind.ISSUING) == [retired, retired, active]


async def test_killed_between_the_issuers_rotation_and_the_roots_nothing_is_lost(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await join(core, "web-1")
        await leave(core)
        await issue(core)
        await make_rotation(core.store, core.authorities).start(force=True, now=NOW)
        last = await core.store.authorities.get_rotation()
        assert last is not None
        await core.store.authorities.change_rotation(last, step=RotationStep.SUPERSEDED, phases=(), now=NOW)
    async with opened(tmp_path / "d") as core:
        rotation = make_rotation(core.store, core.authorities)
        await rotation.advance(NOW)
        assert await phases(core, AuthorityKind.ISSUING) == [AuthorityPhase.OLD, AuthorityPhase.ACTIVE]
        await rotation.advance(LATER)
        assert await phases(core, AuthorityKind.ISSUING) == [AuthorityPhase.RETIRED, AuthorityPhase.ACTIVE]
        assert (await rotation.start(kind=ROOT, now=LATER)).kind is ROOT


async def test_a_tainted_root_takes_everything_below_it_along(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await join(core, "web-1")
        await leave(core)
        await issue(core)
        rotation = make_rotation(core.store, core.authorities)
        await rotation.start(force=True, now=NOW)
        await rotation.advance(LATER)  # The first issuer has retired; connections of it may live on.
        old = await issue(core, now=LATER)
        root, issuer = core.authorities.snapshot.root.authority_id, core.authorities.active.authority_id
        make = core.store.join_tokens.create
        await make(workload=WEB, addresses=(), labels={}, expires=NOW + 7 * DAY_S, now=LATER)
        with pytest.raises(ConflictError, match="only an old one"):
            await rotation.taint(root, LATER)
        with pytest.raises(NotFoundError):
            await rotation.taint("nobody", LATER)
        await rotation.start(force=True, kind=ROOT, now=LATER)
        new = await issue(core, now=LATER)
        await rotation.taint(root, LATER)
        bundle = core.authorities.bundle()
        assert (len(bundle.roots), len(bundle.issuers), len(bundle.distrusted)) == (1, 1, 3)
        await check_chains(core, new, now=LATER)
        with pytest.raises(VerificationError) as caught:
            await check_chains(core, old, now=LATER)
        assert caught.value.reason == Reason.PEER_DISTRUSTED
        with pytest.raises(ConflictError):
            await rotation.revert(LATER)
        # Its join token is worth nothing, so that nobody waits for it.
        await rotation.advance(LATER + 3601)
        found = {r.authority_id: r.phase for r in await core.store.authorities.list_all()}
        assert found[root] is found[issuer] is AuthorityPhase.RETIRED
        assert len(core.authorities.bundle().distrusted) == 3


async def test_an_old_issuer_below_the_old_root_can_be_tainted_alone(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await join(core, "web-1")
        await leave(core)
        await issue(core)
        issuer = core.authorities.active.authority_id
        rotation = make_rotation(core.store, core.authorities)
        await rotation.start(force=True, kind=ROOT, now=NOW)
        await rotation.taint(issuer, NOW)
        assert len(core.authorities.bundle().roots) == 2
        # Nobody signs the CA's own certificate below the old root any more.
        assert len(core.authorities.snapshot.server_signers) == 1
        found = await rotation.status(NOW)
        assert found is not None and not found.is_reversible
        await rotation.advance(LATER)
        assert await phases(core, AuthorityKind.ROOT) == [AuthorityPhase.RETIRED, AuthorityPhase.ACTIVE]


async def test_two_replicas_take_each_step_once_and_neither_signs_below_a_retired_root(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core, opened(tmp_path / "d") as other:
        await join(core, "web-1")
        await leave(core)
        one = make_rotation(core.store, core.authorities)
        two = make_rotation(other.store, other.authorities)
        status = await one.start(kind=ROOT, now=NOW)
        # Nothing was alive, so that the old root has gone at once; the other replica hasn't heard of any of it.
        await two.advance(NOW)
        await one.advance(NOW)
        found = await two.status(NOW)
        assert found is not None and (found.step, found.rotation_id) == (RotationStep.RETIRED, status.rotation_id)
        stale = other.authorities.active.authority_id
        assert stale == core.authorities.active.authority_id
        events = [entry.event for entry in await core.store.authorities.list_journal()]
        assert sorted(events) == sorted(
            ["founded", "founded", "prepared", "prepared", "published", "active", "retired"]
        )
        await check_chains(other, await issue(other))


async def test_an_issuance_that_races_with_the_old_roots_end_is_signed_anew(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core, opened(tmp_path / "d") as other:
        await join(core, "web-1")
        await leave(core)
        rotation = make_rotation(other.store, other.authorities)
        await rotation.start(force=True, kind=ROOT, now=NOW)
        await rotation.advance(NOW)
        assert await phases(other, AuthorityKind.ROOT) == [AuthorityPhase.RETIRED, AuthorityPhase.ACTIVE]
        await check_chains(core, await issue(core))


async def test_a_root_rotates_by_itself_before_it_ends_and_the_issuer_does_meanwhile(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        rotation = make_rotation(core.store, core.authorities)
        await rotation.advance(NOW + 61 * DAY_S)
        found = await rotation.status(NOW + 61 * DAY_S)
        assert found is not None and found.kind is RotationKind.ISSUER
        due = NOW + 3650 * DAY_S * 2 / 3 + DAY_S
        await rotation.advance(due)  # The issuer's own rotation ends first.
        await rotation.advance(due)
        await rotation.advance(due)
        found = await rotation.status(due)
        assert found is not None and found.kind is ROOT
