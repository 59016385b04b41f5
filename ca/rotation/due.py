"""When an authority's age calls for a rotation, and when a rotation can't wait any longer. Pure.

An authority lives from 0 to 1:

| Share of its life | What happens |
| --- | --- |
| 2/3 | a rotation begins by itself (``RENEWED_AT_SHARE``) |
| 5/6 | a rotation that still waits leaves what it waits for behind (``LEFT_BEHIND_AT_SHARE``) |
| the last minute | it can't sign any more: its successor is made and activated at once |

An issuer of 90 days is rotated on day 60. What hasn't followed on day 75 is left behind, two weeks before signing would
stop.
"""

from __future__ import annotations

from typing import Final

from ca.authority.sign import MIN_REMAINING_S
from ca.store.records import AuthorityRecord, RotationRecord, RotationStep
from shared.model.trust.bundle import RotationKind

RENEWED_AT_SHARE: Final = 2 / 3
LEFT_BEHIND_AT_SHARE: Final = 5 / 6
# A rotation that was reverted begins by itself again after this share of the authority's life, and never too late.
_REVERTED_FOR_SHARE: Final = 1 / 12


def has_ended(authority: AuthorityRecord, now: float) -> bool:
    """Tell whether the authority can't sign any more, because it has ended or nearly has."""
    return authority.not_after - now < MIN_REMAINING_S


def is_due(kind: RotationKind, authority: AuthorityRecord, *, last: RotationRecord | None, now: float) -> bool:
    """Tell whether a rotation should begin by itself.

    Arguments:
        authority: the one that would be replaced.
        last: the last rotation of all.
    """
    due_at = _at(authority, RENEWED_AT_SHARE)
    if last is not None and last.step is RotationStep.REVERTED and last.kind is kind:
        life_s = authority.not_after - authority.not_before
        again_at = last.changed + life_s * _REVERTED_FOR_SHARE
        due_at = max(due_at, min(again_at, _at(authority, 1 - _REVERTED_FOR_SHARE)))
    return now >= due_at


def must_leave_behind(authority: AuthorityRecord, now: float) -> bool:
    """Tell whether a rotation that replaces this authority can't wait for laggards any longer."""
    return now >= _at(authority, LEFT_BEHIND_AT_SHARE)


def _at(authority: AuthorityRecord, share: float) -> float:
    return authority.not_before + (authority.not_after - authority.not_before) * share
