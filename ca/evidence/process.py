"""What a sidecar says it saw of a process: kept for people, bounded and printable. Pure.

The digest is the sidecar's claim: the CA proves which sidecar asks, not what it measured.
"""

from __future__ import annotations

from typing import Final

from shared.model.errors import VerificationError
from shared.model.policy.reasons import Reason
from shared.model.wire.messages import ProgramEvidence

MAX_PATH_CHARACTERS: Final = 1024
_MAX_ID: Final = 2**32


def check_process(evidence: ProgramEvidence) -> ProgramEvidence:
    """Return the evidence unchanged.

    Raises:
        VerificationError: a value that no process has.
    """
    if not evidence.path.isprintable() or len(evidence.path) > MAX_PATH_CHARACTERS:
        raise VerificationError(
            f"a path is printable and at most {MAX_PATH_CHARACTERS} characters", reason=Reason.PEER_UNTRUSTED
        )
    if not 0 <= evidence.pid < _MAX_ID or not -1 <= evidence.uid < _MAX_ID:
        raise VerificationError("no process has such a PID or UID", reason=Reason.PEER_UNTRUSTED)
    return evidence
