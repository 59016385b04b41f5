"""Whether this sidecar is ready, and why it isn't. Pure: what it asks is given."""

from __future__ import annotations

from collections.abc import Callable

from sidecar.probing.life import Draining, Joining, Life
from sidecar.probing.outcome import Outcome


class Readiness:
    """What ``/ready`` answers.

    Ready means: joined, and accepting connections. A CA that is away later changes nothing, for everything keeps what
    it has; but a sidecar whose own certificate has ended carries nothing through the mesh.

    Arguments:
        life: of the sidecar.
        find_fault: says why there is no stream to the CA; empty when nothing is known.
    """

    def __init__(self, life: Life, *, find_fault: Callable[[], str]) -> None:
        self._life = life
        self._find_fault = find_fault

    def judge(self) -> Outcome:
        """Return 200, or 503 with the reason."""
        fault, stage = self._find_fault(), self._life.stage
        if isinstance(stage, Draining):
            return Outcome(status=503, body=b"draining\n")
        if isinstance(stage, Joining):
            return Outcome(status=503, body=f"not joined yet: {fault or 'waiting for the CA'}\n".encode())
        if stage.has_expired():
            return Outcome(status=503, body=f"its certificate has ended: {fault or 'waiting for the CA'}\n".encode())
        return Outcome(status=200, body=b"ready\n")
