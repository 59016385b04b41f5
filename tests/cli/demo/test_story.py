"""The whole story, as a user runs it: each fact of the demo is observed and is what Touchmark claims."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from cli.demo.story import Story
from cli.text.exit_codes import ExitCode
from tests.cli.demo.interruption import interrupt_starts
from tests.cli.demo.telling import APART, assert_nothing_stays, start_demo
from tests.cli.demo.waiting import wait_until

TIMEOUT_S = 600.0
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
    """Run the demo to its end as root; return its facts and what it said."""
    demo = start_demo(directory, "--json", *options, before=APART)
    try:
        code = demo.wait(TIMEOUT_S)
    finally:
        demo.kill()
        demo.wait()
    said = (directory / "err").read_text()
    assert code == ExitCode.SUCCESS, said
    [line] = (directory / "out").read_text().splitlines()
    assert_nothing_stays(directory)
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
    assert "is in force in all 2 sidecars" in said
    assert "✗ the" not in said


def test_with_explicit_listeners_it_holds_too_and_kept_it_answers_until_ctrl_c(tmp_path: Path) -> None:
    demo = start_demo(tmp_path, "--json", "--keep", "--capture", "listeners", "--server", "python")
    try:
        wait_until(
            lambda: (
                ("In another terminal" in read(tmp_path, "err") and read(tmp_path, "out").endswith("\n"))
                or demo.poll() is not None
            ),
            timeout_s=TIMEOUT_S,
        )
        said, facts = read(tmp_path, "err"), json.loads(read(tmp_path, "out"))
        assert demo.poll() is None, said
        check_claims(facts, capture="listeners")
        # Who may not open packet sockets can't tell; who may sees none.
        assert facts["plaintext_on_wire"] in ((None,) if "can't capture packets" in said else (False,))
        [curl] = [line.partition("$ ")[2] for line in said.split("until Ctrl-C")[1].splitlines() if "curl" in line]
        answer = subprocess.run(["sh", "-c", curl], capture_output=True, timeout=60, check=False)
        assert answer.stdout.startswith(b"hello from shop/web"), answer
        demo.send_signal(signal.SIGINT)
        assert demo.wait(60) == ExitCode.SUCCESS
    finally:
        demo.kill()
        demo.wait()
    assert_nothing_stays(tmp_path)


def read(directory: Path, name: str) -> str:
    return (directory / name).read_text()


def test_ctrl_c_as_the_requests_begin_leaves_none_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Story, "_is_answered", Mock(return_value=(True, None)))
    story = Story(Mock(), tmp_path, Mock(), Mock())
    started = interrupt_starts(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        story._rotate_issuer()
    assert [thread.is_alive() for thread in started] == [False]
