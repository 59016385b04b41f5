"""When a lifecycle hook may be performed: one run at a time, and seldom. Pure.

Belongs here: when a run may begin. Not here: performing it (``perform.py``), or its path, which the pod's spec holds.

The kubelet performs a hook once for each start and stop of a container. A stop isn't always a deletion of the pod: a
failed liveness probe, an eviction and a node's shutdown run ``preStop`` as well, and nothing in the pod, nor at the API
server, tells in advance. So a hook isn't refused because the pod lives on; it is refused when it was performed lately.
"""

from __future__ import annotations

from typing import Final

from shared.model.kubernetes.contract import ProbeTarget

# Below the ten seconds of the kubelet's shortest back-off between a container's restarts.
MIN_INTERVAL_S: Final = 8.0
_HOOKS: Final = frozenset({"post-start", "pre-stop"})


def is_hook(target: ProbeTarget) -> bool:
    """Return whether a target is a lifecycle hook: it changes something in the application."""
    return target.kind in _HOOKS


class HookRuns:
    """Remembers the runs of each hook, of which there are as many as injection wrote."""

    def __init__(self) -> None:
        self._running: set[str] = set()
        self._ended: dict[str, float] = {}

    def begin(self, target: ProbeTarget, now: float) -> bool:
        """Return whether a run may begin; if so, ``end`` must follow.

        Arguments:
            now: a monotonic clock's time, seconds.
        """
        path = target.request_path
        if path in self._running or now - self._ended.get(path, float("-inf")) < MIN_INTERVAL_S:
            return False
        self._running.add(path)
        return True

    def end(self, target: ProbeTarget, now: float) -> None:
        """A run has ended, however it did."""
        self._running.discard(target.request_path)
        self._ended[target.request_path] = now
