"""What attestation yields."""

from shared.model.policy.reasons import Reason
from sidecar.attest.facts import AttestationError, ProcessFacts


def test_a_refusal_carries_its_reason_and_its_process() -> None:
    facts = ProcessFacts(pid=1, start_time=2, uid=3, path="/x")
    error = AttestationError("no", reason=Reason.NO_OWNER, process=facts)
    assert (error.reason, error.process, error.code) == (Reason.NO_OWNER, facts, "attestation_failed")
