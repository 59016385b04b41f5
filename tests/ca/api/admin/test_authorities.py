"""Status, rotation and journal, asked over the real socket."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from ca.runtime.compose import RunningCA
from ca.store.engine.disk import Disk, Space
from shared.model.trust.bundle import AuthorityPhase, RotationKind
from shared.model.trust.join_token import parse_join_token
from shared.model.version import VERSION
from shared.model.wire import admin as api
from shared.model.wire.messages import BundleChanged, BundleInstalled, Enrol, Refusal, Reissue, Welcome
from tests.ca.running import Admin, FakeSidecar, ShiftedClock, make_registration


async def test_the_status_tells_what_is_there(services: RunningCA, admin: Admin) -> None:
    async with FakeSidecar(services) as sidecar:
        await sidecar.enrol("a", "198.18.0.2")
        status = await admin.get("/v1/status", api.CAStatus)
    assert (status.version, status.trust_domain, status.listen) == (VERSION, "touchmark.local", services.listen)
    assert status.kek_generated
    assert {(one.kind, one.phase) for one in status.authorities} == {
        ("root", AuthorityPhase.ACTIVE),
        ("issuing", AuthorityPhase.ACTIVE),
    }
    assert (status.sidecars_total, status.sidecars_live, status.sidecars_connected) == (1, 1, 1)
    assert status.certificates_alive == 1
    assert [one.certificates_alive for one in status.authorities if one.kind == "issuing"] == [1]
    assert status.rotation.step == "none"
    assert status.server_not_after > status.now
    assert status.disk_free_bytes is not None and status.disk_free_bytes > 0
    assert not status.is_disk_full


class _FullDisk(Disk):
    def refill(self, *, unused_in_file: int) -> None:
        """There is no room."""

    def measure(self, *, unused_in_file: int) -> Space:
        return Space(free=0, total=1 << 30)


async def test_a_full_disk_is_in_the_status_and_one_that_is_gone_leaves_the_rest(
    services: RunningCA, admin: Admin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services.store.database, "_disk", disk := _FullDisk(tmp_path))
    disk.note_failure(OSError(errno.ENOSPC, "no room"))
    status = await admin.get("/v1/status", api.CAStatus)
    assert (status.is_disk_full, status.disk_free_bytes) == (True, 0)
    monkeypatch.setattr(services.store.database, "_disk", Disk(tmp_path / "gone"))
    assert (await admin.get("/v1/status", api.CAStatus)).disk_free_bytes is None


async def test_a_rotation_waits_names_whom_and_goes_on_when_they_have_installed(
    services: RunningCA, admin: Admin
) -> None:
    async with FakeSidecar(services) as sidecar:
        await sidecar.enrol("a")
        before = await admin.get("/v1/rotation", api.RotationStatus)
        assert (before.step, before.is_finished) == ("none", True)
        begun = await admin.ask("POST", "/v1/rotation", api.RotationStatus, api.RotationRequest())
        assert begun.step == "prepared"
        assert begun.issuer == begun.previous == before.issuer != begun.next
        assert begun.waiting_for == ("a (shop/web)",)
        assert not begun.is_finished
        again = await admin.fail("POST", "/v1/rotation", 409, api.RotationRequest())
        assert again.code == "conflict"
        assert "a" in again.message
        changed = await sidecar.expect(BundleChanged)
        assert changed.bundle.sequence == begun.sequence
        await sidecar.send(BundleInstalled(sequence=changed.bundle.sequence))
        await sidecar.expect(Reissue)
        after = await admin.get("/v1/rotation", api.RotationStatus)
        assert (after.step, after.waiting_for, after.next) == ("active", (), "")
        assert after.issuer != after.previous == before.issuer
        assert after.previous_alive == 1
    events = [one.event for one in (await admin.get("/v1/journal", api.JournalList)).entries]
    assert events[:2] == ["active", "prepared"]
    (newest,) = (await admin.get("/v1/journal", api.JournalList, limit="1")).entries
    assert newest.event == "active"
    later = await admin.get("/v1/journal", api.JournalList, since=str(services.clock() + 60))
    until = await admin.get("/v1/journal", api.JournalList, until=str(services.clock() + 60))
    assert (later.entries, [one.event for one in until.entries]) == ((), events)


async def test_a_rotation_is_reverted_and_what_is_old_can_be_tainted(services: RunningCA, admin: Admin) -> None:
    async with FakeSidecar(services) as sidecar:
        await sidecar.enrol("a")
        assert (await admin.fail("POST", "/v1/rotation/revert", 409)).code == "conflict"
        first = (await admin.get("/v1/rotation", api.RotationStatus)).issuer
        forced = await admin.ask("POST", "/v1/rotation", api.RotationStatus, api.RotationRequest(force=True))
        assert (forced.step, forced.forced) == ("active", True)
        reverted = await admin.ask("POST", "/v1/rotation/revert", api.RotationStatus)
        assert (reverted.step, reverted.issuer, reverted.is_finished) == ("reverted", first, True)
        await admin.ask("POST", "/v1/rotation", api.RotationStatus, api.RotationRequest(force=True))
        status = await admin.get("/v1/status", api.CAStatus)
        phases = {one.phase: one.authority_id for one in status.authorities if one.kind == "issuing"}
        active, old = phases[AuthorityPhase.ACTIVE], phases[AuthorityPhase.OLD]
        assert (await admin.fail("POST", f"/v1/authorities/{active}/taint", 409)).code == "conflict"
        assert (await admin.fail("POST", "/v1/authorities/nobody/taint", 404)).code == "not_found"
        status = await admin.ask("POST", f"/v1/authorities/{old}/taint", api.CAStatus)
        assert {one.authority_id: one.phase for one in status.authorities}[old] is AuthorityPhase.TAINTED
        while len((await sidecar.expect(BundleChanged)).bundle.distrusted) != 1:
            pass


async def test_a_root_rotates_with_its_progress_and_an_older_token_is_named_until_it_is_spent(
    services: RunningCA, admin: Admin, clock: ShiftedClock
) -> None:
    wanted = api.JoinTokenRequest(workload="shop/db")
    token = await admin.ask("POST", "/v1/join-tokens", api.JoinTokenCreated, wanted, status=201)
    root = api.RotationRequest(kind=RotationKind.ROOT)
    async with FakeSidecar(services) as sidecar:
        await sidecar.enrol("a")
        before = await admin.get("/v1/rotation", api.RotationStatus)
        assert "root" in before.root
        begun = await admin.ask("POST", "/v1/rotation", api.RotationStatus, root)
        assert (begun.kind, begun.step, begun.root) == (RotationKind.ROOT, "prepared", before.root)
        assert begun.previous_root == before.root != begun.next_root
        assert begun.waiting_for == ("a (shop/web)",)
        assert (begun.unpublished, begun.open_tokens) == ((), (f"{token.token_id} (shop/db)",))
        assert begun.tokens_expire == token.expires
        changed = await sidecar.expect(BundleChanged)
        assert len(changed.bundle.roots) == 2
        await sidecar.send(BundleInstalled(sequence=changed.bundle.sequence))
        await sidecar.expect(Reissue)
        after = await admin.get("/v1/rotation", api.RotationStatus)
        assert (after.step, after.root, after.next_root) == ("active", begun.next_root, "")
        assert (after.previous_root, after.previous_alive) == (before.root, 1)
        newer = await admin.ask("POST", "/v1/join-tokens", api.JoinTokenCreated, wanted, status=201)
        assert parse_join_token(newer.token).root_pin == services.authorities.root_pin
        busy = await admin.fail("POST", "/v1/rotation", 409, api.RotationRequest())
        assert "of the root" in busy.message
    async with FakeSidecar(services) as late:
        await late.send(Enrol(token=token.token, csr=late.csr, registration=make_registration("late")))
        assert isinstance(await late.receive(), Welcome)
    assert (await admin.get("/v1/rotation", api.RotationStatus)).open_tokens == ()
    clock.shift_s = services.issuance.leaf_lifetime_s + 100
    await services.rotation.advance(services.clock())
    status = await admin.get("/v1/status", api.CAStatus)
    assert (status.rotation.step, status.root_pin) == ("retired", services.authorities.root_pin)


async def test_a_token_of_a_root_that_is_gone_is_told_so(services: RunningCA, admin: Admin) -> None:
    wanted = api.JoinTokenRequest(workload="shop/db", ttl_s=60)
    token = await admin.ask("POST", "/v1/join-tokens", api.JoinTokenCreated, wanted, status=201)
    root = api.RotationRequest(kind=RotationKind.ROOT, force=True)
    await admin.ask("POST", "/v1/rotation", api.RotationStatus, root)
    status = await admin.get("/v1/status", api.CAStatus)
    (old,) = (one for one in status.authorities if one.kind == "root" and one.phase is AuthorityPhase.OLD)
    await admin.ask("POST", f"/v1/authorities/{old.authority_id}/taint", api.CAStatus)
    async with FakeSidecar(services) as late:
        await late.send(Enrol(token=token.token, csr=late.csr, registration=make_registration("late")))
        refusal = await late.receive()
        assert isinstance(refusal, Refusal)
        assert "a root that this one has replaced" in refusal.message and "join-token" in refusal.hint


@pytest.mark.parametrize(
    "query", [{"limit": "0"}, {"limit": "many"}, {"limit": "nan"}, {"lines": "1"}, {"since": "now"}], ids=repr
)
async def test_the_journal_takes_no_nonsense(admin: Admin, query: dict[str, str]) -> None:
    assert (await admin.fail("GET", "/v1/journal", 400, query=query)).code == "bad_input"
