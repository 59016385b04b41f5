"""Whether attested processes still run what was attested: a quick look at each, again and again, on the event loop.

Belongs here: the looks, a few microseconds each, and when each process was looked at last. Doesn't: what follows for a
process's connections (``sidecar/connection/connection.py``), or who else holds a socket (``holder_check.py``).
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from shared.model.policy.reasons import Reason
from sidecar.attest.facts import Attestation, AttestationError, Execution
from sidecar.native.engine import make_proof

if TYPE_CHECKING:
    from sidecar.native._loop import Proof

# No byte is forwarded on a look that is older.
MAX_AGE_S = 0.05
# A pass that takes longer goes on at the next one: the event loop has other work.
_MAX_PASS_S = 0.001


class ProgramLooks:
    """Belongs to the event loop's thread."""

    def __init__(self) -> None:
        # Up to when the last look counts, the look longest ago first. What is forgotten lets go of its descriptor.
        self._fresh: dict[Execution, float] = {}
        self._proofs: dict[Execution, Proof] = {}

    def look_at(self, attestation: Attestation) -> float:
        """Look at a process, unless the last look is fresh; return up to when it counts (``time.monotonic``).

        Raises:
            AttestationError: it runs another program (``program_changed``), can't be inspected any more, or has ended
                (``process_vanished``): others may hold its sockets.
        """
        execution, now = attestation.execution, time.monotonic()
        if (fresh := self._fresh.get(execution, 0.0)) > now:
            return fresh
        self._fresh.pop(execution, None)
        self._fresh[execution] = 0.0
        try:
            if not execution.is_current():
                raise _changed(attestation)
        except OSError as error:
            raise _explain(attestation, error) from error
        fresh = self._fresh[execution] = now + MAX_AGE_S
        return fresh

    def find_proof(self, execution: Execution) -> Proof:
        """Return what a mover's thread looks at, as ``look_at`` looks.

        Raises:
            LookupError: the execution has no memory, which proves nothing.
        """
        proof = self._proofs.get(execution)
        if proof is None:
            memory = execution.memory
            if memory is None:
                raise LookupError("nothing tells whether this execution goes on")
            proof = self._proofs[execution] = make_proof(
                memory,
                maps=memory.maps,
                directory=memory.directory,
                device=execution.device,
                inode=execution.file,
                max_age_s=MAX_AGE_S,
            )
        return proof

    def look_again(self, attestations: Sequence[Attestation]) -> Iterator[tuple[Attestation, AttestationError]]:
        """Look at each process, those first that were looked at longest ago, as far as the time for one pass allows.

        Yields:
            who runs another program now, has ended, or can't be inspected any more; reasons as for ``look_at``.
        """
        current = {each.execution: each for each in attestations}
        known = self._fresh = {each: fresh for each, fresh in self._fresh.items() if each in current}
        self._proofs = {each: proof for each, proof in self._proofs.items() if each in current}
        now, has_looked = time.monotonic(), False
        deadline = now + _MAX_PASS_S
        for execution in [*(each for each in current if each not in known), *known]:
            if self._fresh.get(execution, 0.0) > now:
                continue
            if has_looked and time.monotonic() > deadline:
                return
            has_looked = True
            try:
                self.look_at(current[execution])
            except AttestationError as error:
                yield current[execution], error


def _changed(attestation: Attestation) -> AttestationError:
    process = attestation.process
    message = f"process {process.pid} executed another program"
    return AttestationError(message, reason=Reason.PROGRAM_CHANGED, process=process)


def _explain(attestation: Attestation, error: OSError) -> AttestationError:
    process = attestation.process
    if isinstance(error, ProcessLookupError):
        return AttestationError(f"process {process.pid} has ended", reason=Reason.PROCESS_VANISHED, process=process)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return AttestationError("no descriptors left", reason=Reason.OVERLOADED, process=process)
    message = f"process {process.pid} may not be inspected any more"
    return AttestationError(message, reason=Reason.EXECUTABLE_UNREADABLE, process=process)
