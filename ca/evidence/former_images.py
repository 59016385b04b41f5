"""Sidecar images that were taken out of the CA's list: pods that run them stay for a grace. Pure.

Taking an image out is the natural edit at an upgrade, and without a grace it would disconnect every pod that still runs
it. The list is the operator's own, remembered by the store: what a pod says of its image counts for nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

MAX_FORMER: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class FormerImages:
    """Images that may join no longer.

    Attributes:
        removed: image → when it was found to be gone from the list, in seconds since the epoch.
        grace_s: how long pods stay that were made before.
    """

    removed: Mapping[str, float] = field(default_factory=dict)
    grace_s: float = 0.0

    def list_for(self, created: str) -> tuple[str, ...]:
        """Return those that a pod may have that was made then (RFC 3339): before they were taken out."""
        try:
            made = datetime.fromisoformat(created).timestamp()
        except ValueError:
            return ()
        return tuple(image for image, since in self.removed.items() if made <= since and self.grace_s > 0)

    def end_of(self, image: str) -> float:
        """Return when pods of this image are disconnected, in seconds since the epoch; 0 for any other image."""
        since = self.removed.get(image)
        return 0.0 if since is None else since + self.grace_s


def note_images(
    known: Mapping[str, float], current: tuple[str, ...], *, now: float, grace_s: float
) -> dict[str, float]:
    """Return what is remembered from now on: image → 0 while it is in the list, else since when it isn't.

    Those whose grace is over are forgotten; of too many the oldest. A restart lengthens no grace. One that was in the
    list again begins anew when it leaves: pods have been made with it meanwhile, which mustn't be disconnected at once.
    """
    former = {image: since or now for image, since in known.items() if image not in current}
    kept = sorted(
        ((since, image) for image, since in former.items() if now < since + grace_s), reverse=True
    )[:MAX_FORMER]  # fmt: skip
    return dict.fromkeys(current, 0.0) | {image: since for since, image in kept}
