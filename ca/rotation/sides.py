"""The authorities of a rotation: which come and which go. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ca.store.records import AuthorityRecord, RotationRecord
from shared.model.trust.bundle import AuthorityPhase, RotationKind

LEAVING = (AuthorityPhase.OLD, AuthorityPhase.TAINTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """The authorities of a rotation.

    Attributes:
        issuer, root: the new issuing authority and its root.
        previous, previous_root: those that sign before it. The roots are one and the same where the issuer is rotated.
        replaced: the issuing authorities that go: the previous one; with a root all that are left below it.
    """

    issuer: AuthorityRecord
    root: AuthorityRecord
    previous: AuthorityRecord
    previous_root: AuthorityRecord
    replaced: tuple[AuthorityRecord, ...]

    @property
    def is_previous_intact(self) -> bool:
        """Whether what was replaced could sign again."""
        roots = () if self.root == self.previous_root else (self.previous_root,)
        return all(r.phase is AuthorityPhase.OLD for r in (self.previous, *roots))


def find_sides(rotation: RotationRecord, records: Iterable[AuthorityRecord]) -> Sides:
    """Find a rotation's authorities among all."""
    known = {record.authority_id: record for record in records}
    issuer, previous = known[rotation.issuer_id], known[rotation.previous_id]
    replaced: tuple[AuthorityRecord, ...] = (previous,)
    if rotation.kind is RotationKind.ROOT:
        root_id = previous.root_id
        replaced = tuple(
            r
            for r in known.values()
            if r.root_id == root_id != r.authority_id and r.phase is not AuthorityPhase.RETIRED
        )
    return Sides(
        issuer=issuer,
        root=known[issuer.root_id],
        previous=previous,
        previous_root=known[previous.root_id],
        replaced=replaced,
    )
