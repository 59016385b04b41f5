"""Whether attested processes still run what was attested: a quick look at each, again and again, on the event loop.

Belongs here: the looks, a few microseconds each. Doesn't: what follows for a process's connections
(``sidecar/runtime/live_checks.py``), or who else holds a socket (``holder_check.py``).
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator, Sequence

from shared.model.policy.reasons import Reason
from sidecar.attest.facts import Attestation, AttestationError

# A pass that takes longer goes on at the next one: the event loop has other work.
_MAX_PASS_S = 0.002


class ProgramLooks:
    """Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._next = 0

    def look_again(self, attestations: Sequence[Attestation]) -> Iterator[tuple[Attestation, AttestationError]]:
        """Look at each process, as far as the time for one pass allows; the next pass goes on from there.

        Yields:
            who runs another program now (``program_changed``), or can't be inspected any more.
        """
        deadline = time.perf_counter() + _MAX_PASS_S
        start = self._next if self._next < len(attestations) else 0
        self._next = 0
        for number, attestation in enumerate((*attestations[start:], *attestations[:start])):
            if number and time.perf_counter() > deadline:
                self._next = (start + number) % len(attestations)
                return
            try:
                if not attestation.execution.is_current():
                    yield attestation, _changed(attestation)
            except ProcessLookupError:
                continue
            except OSError as error:
                yield attestation, _explain(attestation, error)


def _changed(attestation: Attestation) -> AttestationError:
    process = attestation.process
    message = f"process {process.pid} executed another program"
    return AttestationError(message, reason=Reason.PROGRAM_CHANGED, process=process)


def _explain(attestation: Attestation, error: OSError) -> AttestationError:
    process = attestation.process
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return AttestationError("no descriptors left", reason=Reason.OVERLOADED, process=process)
    message = f"process {process.pid} may not be inspected any more"
    return AttestationError(message, reason=Reason.EXECUTABLE_UNREADABLE, process=process)
