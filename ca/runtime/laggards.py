"""Sidecars that a rotation waits for: named again and again, and their streams opened anew. I/O through the parts.

Belongs here: what is done about them. Doesn't: how long the rotation waits at most (``ca/rotation/due.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from ca.distribution.hub import Hub
from ca.metrics import Metrics
from ca.rotation.rotation import Rotation
from ca.store.records import RotationStep

CHECK_INTERVAL_S: Final = 30.0
# A connected sidecar that hasn't acknowledged the bundle by then has a fault: a new stream starts it afresh.
REOPENED_AFTER_S: Final = 600.0
REPEATED_AFTER_S: Final = 3600.0
_MAX_NAMED: Final = 10

_log = structlog.get_logger("touchmark.ca")


class Laggards:
    """Looks after the sidecars that haven't acknowledged a prepared rotation's bundle.

    Arguments:
        is_leader: whether this replica names them; each replica opens its own streams anew.
        tell_pod: tells people of a sidecar, on its pod: instance, reason, note.
    """

    def __init__(
        self,
        *,
        rotation: Rotation,
        hub: Hub,
        metrics: Metrics,
        is_leader: Callable[[], bool],
        clock: Callable[[], float],
        tell_pod: Callable[[str, str, str], None] = lambda *_: None,
    ) -> None:
        self._tell_pod = tell_pod
        self._rotation = rotation
        self._hub = hub
        self._metrics = metrics
        self._is_leader = is_leader
        self._clock = clock
        self._named_at = 0.0
        self._reopened_at: dict[str, float] = {}

    async def check(self) -> None:
        """Name and nudge those that are awaited now.

        Raises:
            UnavailableError: the store failed.
        """
        now = self._clock()
        status = await self._rotation.status(now)
        is_waiting = status is not None and status.step is RotationStep.PREPARED
        awaited = status.waiting_for if status is not None and is_waiting else ()
        self._metrics.rotation_laggards.set(len(awaited))
        for step in RotationStep:
            self._metrics.rotation_step.labels(step=step.value).set(status is not None and status.step is step)
        self._metrics.rotation_changed.set(status.changed if status is not None else 0.0)
        self._reopened_at = {name: when for name, when in self._reopened_at.items() if name in awaited}
        if status is None or not awaited or now - status.started < REOPENED_AFTER_S:
            return
        if self._is_leader() and now - self._named_at >= REPEATED_AFTER_S:
            self._named_at = now
            _log.warning(
                "rotation_waits",
                rotation=status.rotation_id,
                sidecars=awaited[:_MAX_NAMED],
                number=len(awaited),
                waited_s=round(now - status.started),
            )
            for name in awaited:
                note = "An authority's rotation waits for this pod's sidecar, which hasn't installed the trust bundle"
                self._tell_pod(name, "RotationWaits", note)
        for name in awaited:
            session = self._hub.get(name)
            if session is not None and now - self._reopened_at.get(name, 0.0) >= REPEATED_AFTER_S:
                self._reopened_at[name] = now
                session.end("unacknowledged")
