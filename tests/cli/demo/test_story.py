"""The whole story, told as a user tells it: each fact of the demo is observed and is what Touchmark claims."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cli.exit_codes import ExitCode
from tests.cli.demo.telling import find_processes, start_demo

TIMEOUT_S = 150.0
FACTS = [
    "capture",
    "approved_permissive",
    "intruder_permissive_would_deny",
    "approved_explicit",
    "intruder_explicit_refused",
    "intruder_reason",
    "outsider_refused",
    "plaintext_on_wire",
    "rotation_requests",
    "rotation_failures",
    "decisions",
]


def tell(directory: Path, *options: str) -> tuple[dict[str, Any], str]:
    """Run the demo to its end; return its facts and what it said."""
    demo = start_demo(directory, "--json", *options)
    try:
        code = demo.wait(TIMEOUT_S)
    finally:
        demo.kill()
        demo.wait()
    said = (directory / "err").read_text()
    assert code == ExitCode.SUCCESS, said
    [line] = (directory / "out").read_text().splitlines()
    assert not list((directory / "tmp").iterdir()), "something stayed behind"
    assert not find_processes(str(directory / "tmp"))
    facts: dict[str, Any] = json.loads(line)
    return facts, said


def check_claims(facts: dict[str, Any], *, capture: str) -> None:
    """See that each fact was observed and is what Touchmark claims; the packet watch is checked apart."""
    assert list(facts) == FACTS
    assert facts["capture"] == capture
    assert facts["approved_permissive"] is True
    assert facts["intruder_permissive_would_deny"] is True
    assert facts["approved_explicit"] is True
    assert facts["intruder_explicit_refused"] is True
    assert facts["intruder_reason"] == "program_not_approved"
    assert facts["outsider_refused"] is True
    assert facts["rotation_requests"] > 0
    assert facts["rotation_failures"] == 0
    # Both sides record each connection; the intruder's and the outsider's refusal are recorded once.
    assert facts["decisions"] > 2 * facts["rotation_requests"]


@pytest.mark.needs_root
def test_in_network_namespaces_every_claim_holds_and_the_wire_shows_no_plaintext(tmp_path: Path) -> None:
    facts, said = tell(tmp_path, "--capture", "redirect")
    check_claims(facts, capture="redirect")
    assert facts["plaintext_on_wire"] is False
    assert said.index("in force in 0 of 2 sidecars") < said.index("is in force in all 2 sidecars")
    assert "✗ the" not in said


@pytest.mark.parametrize("server", ["python", "auto"])
def test_with_explicit_listeners_every_claim_holds(tmp_path: Path, server: str) -> None:
    facts, said = tell(tmp_path, "--capture", "listeners", "--server", server)
    check_claims(facts, capture="listeners")
    # Who may not open packet sockets can't tell; who may sees none.
    assert facts["plaintext_on_wire"] in ((None,) if "may not watch packets" in said else (False,))
