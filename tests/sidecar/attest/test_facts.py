"""What attestation yields."""

import os

import msgspec
import pytest

from shared.model.policy.reasons import Reason
from sidecar.attest.facts import MAX_SHOWN_CHARACTERS, AttestationError, ProcessFacts


def test_a_refusal_carries_its_reason_and_its_process() -> None:
    facts = ProcessFacts(pid=1, start_time=2, uid=3, path="/x")
    error = AttestationError("no", reason=Reason.NO_OWNER, process=facts)
    assert (error.reason, error.process, error.code) == (Reason.NO_OWNER, facts, "attestation_failed")


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (b"/usr/bin/caf\xc3\xa9", "/usr/bin/café"),
        (b"/a\nb\x1b[31m", "/a\\nb\\x1b[31m"),
        (b"/\xff", "/\\xff"),
        (b"/" + b"a" * 2000, "..." + "a" * (MAX_SHOWN_CHARACTERS - 3)),
        (b"/" + b"\n" * 2000, "..." + ("\\n" * 2000)[3 - MAX_SHOWN_CHARACTERS :]),
    ],
)
def test_whatever_a_path_holds_it_can_be_sent_and_shown(path: bytes, shown: str) -> None:
    """Else the CA refused the program's certificate, and a record couldn't be written."""
    facts = ProcessFacts(pid=1, start_time=2, uid=3, path=os.fsdecode(path))
    assert facts.shown_path == shown
    assert facts.shown_path.isprintable()
    assert len(facts.shown_path) <= MAX_SHOWN_CHARACTERS
    assert msgspec.json.decode(msgspec.json.encode(facts.shown_path)) == shown
