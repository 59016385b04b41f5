"""Evidence is bounded and printable."""

from __future__ import annotations

import pytest

from ca.evidence.process import check_process
from shared.model.errors import VerificationError
from shared.model.wire.messages import ProgramEvidence


def test_what_a_process_has_passes_unchanged() -> None:
    evidence = ProgramEvidence(path="/usr/bin/curl", pid=7, uid=1000)
    assert check_process(evidence) is evidence


@pytest.mark.parametrize(
    "evidence",
    [
        ProgramEvidence(path="/a\x1b[31m"),
        ProgramEvidence(path="/" * 1025),
        ProgramEvidence(pid=-1),
        ProgramEvidence(uid=2**32),
    ],
)
def test_what_no_process_has_is_refused(evidence: ProgramEvidence) -> None:
    with pytest.raises(VerificationError):
        check_process(evidence)
