"""Whether this sidecar is ready, and why it isn't. Pure: what it asks is given."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

from sidecar.probing.outcome import Outcome


class Stage(Enum):
    """Where a sidecar is in its life."""

    JOINING = auto()
    SERVING = auto()
    DRAINING = auto()


class Readiness:
    """What ``/ready`` answers.

    Ready means: joined, and accepting connections. A CA that is away later changes nothing, for everything keeps what
    it has; but a sidecar whose own certificate has ended carries nothing through the mesh.

    Arguments:
        find_fault: says why there is no stream to the CA; empty when nothing is known.
        has_expired: tells whether the sidecar's own certificate has ended.
    """

    def __init__(self, *, find_fault: Callable[[], str], has_expired: Callable[[], bool]) -> None:
        self.stage = Stage.JOINING
        self._find_fault = find_fault
        self._has_expired = has_expired

    def judge(self) -> Outcome:
        """Return 200, or 503 with the reason."""
        fault = self._find_fault()
        if self.stage is Stage.DRAINING:
            return Outcome(status=503, body=b"draining\n")
        if self.stage is Stage.JOINING:
            return Outcome(status=503, body=f"not joined yet: {fault or 'waiting for the CA'}\n".encode())
        if self._has_expired():
            return Outcome(status=503, body=f"its certificate has ended: {fault or 'waiting for the CA'}\n".encode())
        return Outcome(status=200, body=b"ready\n")
