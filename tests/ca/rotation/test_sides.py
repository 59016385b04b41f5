"""With a root go its issuers."""

from __future__ import annotations

from dataclasses import replace

from ca.rotation.sides import find_sides
from ca.store.records import AuthorityKind, AuthorityRecord
from shared.model.trust.bundle import AuthorityPhase, RotationKind
from tests.ca.founded import NOW
from tests.ca.rotation.making import ROTATION


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
