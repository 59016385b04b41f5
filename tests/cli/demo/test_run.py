"""However the demo ends, everything that it started ends with it, and nothing that it made stays."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from cli.text.exit_codes import ExitCode
from tests.cli.demo.telling import assert_nothing_stays, list_namespaces, start_demo
from tests.cli.demo.waiting import wait_until


def end_at(
    directory: Path,
    text: str,
    number: signal.Signals,
    *options: str,
    before: Sequence[str] = (),
) -> int:
    """Run the demo until it has said a text, send it a signal, and return its exit code."""
    demo = start_demo(directory, *options, before=before)
    try:
        wait_until(lambda: text in (directory / "out").read_text() or demo.poll() is not None, timeout_s=300)
        demo.send_signal(number)
        return demo.wait(60)
    finally:
        demo.kill()
        demo.wait()


@pytest.mark.parametrize(
    ("moment", "number"),
    [("2. Two sidecars join", signal.SIGTERM), ("9. Rotate the issuer", signal.SIGINT)],
    ids=["SIGTERM while sidecars start", "Ctrl-C while requests run"],
)
def test_a_signal_in_mid_story_cleans_up(tmp_path: Path, moment: str, number: signal.Signals) -> None:
    assert end_at(tmp_path, moment, number, "--capture", "listeners") == ExitCode.INTERRUPTED
    assert (tmp_path / "err").read_text().endswith("interrupted\n")
    assert_nothing_stays(tmp_path)


@pytest.mark.needs_root
def test_namespaces_go_too(tmp_path: Path) -> None:
    code = end_at(tmp_path, "3. Approve the server's program", signal.SIGTERM, "--capture", "redirect")
    assert code == ExitCode.INTERRUPTED
    assert_nothing_stays(tmp_path)
    made = {word for word in (tmp_path / "out").read_text().split() if word.startswith("tm-")}
    assert made
    assert not made & list_namespaces()


@pytest.mark.needs_root
def test_without_the_sidecars_user_approved_programs_pass_in_explicit_mode_and_a_signal_cleans_up(
    tmp_path: Path,
) -> None:
    """As an ordinary user's: in a user namespace, from which nobody may inspect this machine's processes."""
    refused = "✓ the modified program was refused, reason program_not_approved"
    code = end_at(tmp_path, refused, signal.SIGTERM, "--capture", "redirect", before=["unshare", "-Ur"])
    said = (tmp_path / "out").read_text() + (tmp_path / "err").read_text()
    assert code == ExitCode.INTERRUPTED, said
    assert "Network namespaces in a user namespace" in said
    assert refused in said
    assert "✗ the" not in said
    assert_nothing_stays(tmp_path)
