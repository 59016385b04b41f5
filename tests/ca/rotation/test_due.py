"""An authority's age begins a rotation, ends its waiting, and calls for a successor at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ca.authority.founding import DAY_S
from ca.rotation.due import has_ended, is_due, must_leave_behind
from ca.store.records import AuthorityKind, AuthorityRecord, RotationStep
from shared.model.errors import ConflictError
from shared.model.trust.bundle import AuthorityPhase, RotationKind
from tests.ca.founded import NOW, Founded, join, make_rotation, opened
from tests.ca.rotation.making import ROTATION
from tests.ca.rotation.test_rotation import issue

ISSUER = AuthorityRecord(
    authority_id="i1",
    kind=AuthorityKind.ISSUING,
    phase=AuthorityPhase.ACTIVE,
    root_id="r1",
    subject="",
    certificate=b"",
    public_key_digest="",
    sealed_key=b"",
    not_before=NOW,
    not_after=NOW + 90 * DAY_S,
    created=NOW,
)


@pytest.mark.parametrize(
    ("reverted_on_day", "due_on_day"), [(None, 60), (1, 60), (61, 68.5), (75, 82.5), (80, 82.5), (89, 82.5)]
)
def test_a_rotation_that_was_reverted_begins_again_later_but_in_time(
    reverted_on_day: float | None, due_on_day: float
) -> None:
    last = None
    if reverted_on_day is not None:
        last = replace(ROTATION, step=RotationStep.REVERTED, changed=NOW + reverted_on_day * DAY_S)
    for day, is_expected in ((due_on_day - 0.01, False), (due_on_day + 0.01, True)):
        assert is_due(RotationKind.ISSUER, ISSUER, last=last, now=NOW + day * DAY_S) is is_expected
    of_the_root = None if last is None else replace(last, kind=RotationKind.ROOT)
    assert is_due(RotationKind.ISSUER, ISSUER, last=of_the_root, now=NOW + 60.01 * DAY_S)


def test_waiting_ends_two_weeks_before_signing_does() -> None:
    assert [must_leave_behind(ISSUER, NOW + day * DAY_S) for day in (60, 74.9, 75.1)] == [False, False, True]
    assert [has_ended(ISSUER, ISSUER.not_after - left_s) for left_s in (61, 59, -1)] == [False, True, True]


async def phases(core: Founded, kind: AuthorityKind = AuthorityKind.ISSUING) -> list[AuthorityPhase]:
    return [r.phase for r in await core.store.authorities.list_all() if r.kind is kind]


async def test_a_silent_sidecar_is_left_behind_before_signing_would_stop(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await join(core, "silent")
        await core.store.sidecars.mark_seen("silent", connected=True, now=NOW)
        rotation = make_rotation(core.store, core.authorities)
        await rotation.advance(NOW + 61 * DAY_S)
        await rotation.advance(NOW + 74 * DAY_S)
        found = await rotation.status(NOW + 74 * DAY_S)
        assert found is not None and (found.step, found.waiting_for) == (RotationStep.PREPARED, ("silent",))
        await rotation.advance(NOW + 76 * DAY_S)
        found = await rotation.status(NOW + 76 * DAY_S)
        assert found is not None and found.step in (RotationStep.ACTIVE, RotationStep.RETIRED)
        journal = await core.store.authorities.list_journal()
        assert "without silent" in [entry.detail for entry in journal]


@pytest.mark.parametrize("begun", ["nothing", "prepared", "active"])
@pytest.mark.parametrize("after_days", [91, 3651])
async def test_what_ended_while_the_ca_was_off_has_a_successor_that_signs_at_once(
    tmp_path: Path, begun: str, after_days: int
) -> None:
    async with opened(tmp_path / "d") as core:
        await join(core, "web-1")
        await core.store.sidecars.mark_seen("web-1", connected=True, now=NOW)
        if begun != "nothing":
            await make_rotation(core.store, core.authorities).start(force=begun == "active", now=NOW)
    later = NOW + after_days * DAY_S
    async with opened(tmp_path / "d", now=later) as core:
        await make_rotation(core.store, core.authorities).replace_ended(later)
        await make_rotation(core.store, core.authorities).replace_ended(later)
        assert core.authorities.active.record.not_after > later + 80 * DAY_S
        assert core.authorities.snapshot.root.record.not_after > later
        assert (await phases(core)).count(AuthorityPhase.ACTIVE) == 1
        roots = await phases(core, AuthorityKind.ROOT)
        assert (roots.count(AuthorityPhase.ACTIVE), len(roots)) == (1, 1 if after_days < 3650 else 2)
        assert len(await issue(core, now=later)) >= 2
        await make_rotation(core.store, core.authorities).advance(later + 60)
        await make_rotation(core.store, core.authorities).advance(later + 60)
        assert AuthorityPhase.OLD not in await phases(core)


async def test_what_was_prepared_in_time_signs_instead_of_a_third(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await join(core, "silent")
        prepared = await make_rotation(core.store, core.authorities).start(now=NOW + 70 * DAY_S)
    async with opened(tmp_path / "d") as core:
        rotation = make_rotation(core.store, core.authorities)
        await rotation.replace_ended(NOW + 91 * DAY_S)
        assert core.authorities.active.record.subject == prepared.issuer
        assert len(await phases(core)) == 2


async def test_a_running_ca_replaces_what_ends_under_it(tmp_path: Path) -> None:
    """A machine that was suspended goes on with a process that read the authorities long ago."""
    async with opened(tmp_path / "d") as core:
        before = core.authorities.active.authority_id
        await make_rotation(core.store, core.authorities).advance(NOW + 91 * DAY_S)
        assert core.authorities.active.authority_id != before


async def test_two_replicas_that_wake_together_make_one_successor(tmp_path: Path) -> None:
    later = NOW + 91 * DAY_S
    async with opened(tmp_path / "d") as core, opened(tmp_path / "d") as other:
        await make_rotation(core.store, core.authorities).replace_ended(later)
        await make_rotation(other.store, other.authorities).replace_ended(later)
        assert core.authorities.active.authority_id == other.authorities.active.authority_id
        assert len(await phases(core)) == 2


async def test_force_rotates_although_the_last_rotation_has_not_retired_what_it_replaced(tmp_path: Path) -> None:
    """A key that was stolen just after a rotation can't wait until the certificates of the former are over."""
    async with opened(tmp_path / "d") as core:
        await join(core, "web-1")
        rotation = make_rotation(core.store, core.authorities)
        for number in range(1, 4):
            await issue(core, now=NOW + number)
            await rotation.start(force=True, now=NOW + number)
        with pytest.raises(ConflictError, match="hasn't retired") as refused:
            await rotation.start(now=NOW + 5)
        assert "--force" in refused.value.hint
        await issue(core, now=NOW + 5)
        for number in range(6, 9):
            await rotation.start(force=True, kind=RotationKind.ROOT, now=NOW + number)
            await issue(core, now=NOW + number)
        assert (await phases(core, AuthorityKind.ROOT)).count(AuthorityPhase.ACTIVE) == 1
        await core.store.sidecars.mark_seen("web-1", connected=False, now=NOW)
        for _ in range(3):
            await rotation.advance(NOW + 2 * DAY_S)
        assert set(await phases(core, AuthorityKind.ROOT)) == {AuthorityPhase.RETIRED, AuthorityPhase.ACTIVE}
        assert set(await phases(core)) == {AuthorityPhase.RETIRED, AuthorityPhase.ACTIVE}
