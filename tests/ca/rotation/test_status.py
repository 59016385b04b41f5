"""What a rotation waits for, found before a step is taken and shown to people."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ca.rotation.status import Pace, find_laggards, find_sides, read_status
from ca.store.records import AuthorityKind, AuthorityRecord, RotationRecord, RotationStep
from shared.model.trust.bundle import AuthorityPhase, RotationKind
from tests.ca.founded import NOW, join, opened

ROTATION = RotationRecord(
    rotation_id=1,
    step=RotationStep.PREPARED,
    issuer_id="i2",
    previous_id="i1",
    sequence=2,
    forced=False,
    started=NOW,
    changed=NOW,
)


@pytest.mark.parametrize(
    ("kind", "published", "ready_at"),
    [
        (RotationKind.ISSUER, None, NOW + 10),
        (RotationKind.ROOT, None, None),
        (RotationKind.ROOT, NOW, NOW + 60),
        (RotationKind.ROOT, NOW + 30, NOW + 90),
    ],
)
def test_the_earliest_activation(kind: RotationKind, published: float | None, ready_at: float | None) -> None:
    pace = Pace(minimum_s=10, settling_s=5, delivery_s=60)
    assert pace.find_ready_at(replace(ROTATION, kind=kind, published=published)) == ready_at


def test_a_root_settles_although_nothing_is_published_anywhere() -> None:
    rotation = replace(ROTATION, kind=RotationKind.ROOT, published=NOW)
    assert Pace(settling_s=5).find_ready_at(rotation) == NOW + 5


def record(authority_id: str, root_id: str, phase: AuthorityPhase) -> AuthorityRecord:
    return AuthorityRecord(
        authority_id=authority_id,
        kind=AuthorityKind.ROOT if authority_id == root_id else AuthorityKind.ISSUING,
        phase=phase,
        root_id=root_id,
        subject=f"CN={authority_id}",
        certificate=b"",
        public_key_digest="",
        sealed_key=b"",
        not_before=NOW,
        not_after=NOW + 1,
        created=NOW,
    )


def test_with_a_root_goes_every_issuer_that_is_left_below_it() -> None:
    old = AuthorityPhase.OLD
    records = [
        record("r1", "r1", old),
        record("i0", "r1", AuthorityPhase.RETIRED),
        record("i1", "r1", old),
        record("left", "r1", AuthorityPhase.TAINTED),
        record("r2", "r2", AuthorityPhase.ACTIVE),
        record("i2", "r2", AuthorityPhase.ACTIVE),
    ]
    sides = find_sides(replace(ROTATION, kind=RotationKind.ROOT), records)
    assert (sides.root.authority_id, sides.previous_root.authority_id) == ("r2", "r1")
    assert [each.authority_id for each in sides.replaced] == ["i1", "left"]
    assert sides.is_previous_intact
    tainted = [record("r1", "r1", AuthorityPhase.TAINTED), *records[1:]]
    assert not find_sides(replace(ROTATION, kind=RotationKind.ROOT), tainted).is_previous_intact
    assert [each.authority_id for each in find_sides(ROTATION, records).replaced] == ["i1"]


async def test_a_finished_rotation_waits_for_nobody(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await join(core, "web-1")
        active = core.authorities.active.authority_id
        done = replace(ROTATION, step=RotationStep.RETIRED, issuer_id=active, previous_id=active, sequence=9)
        assert [each.instance for each in await find_laggards(core.store, done, NOW)] == ["web-1"]
        status = await read_status(core.store, done, pace=Pace(), unpublished=("anything",), now=NOW)
        assert (status.waiting_for, status.unpublished, status.tokens, status.is_reversible) == ((), (), (), False)
