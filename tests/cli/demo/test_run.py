"""However the demo ends, everything that it started ends with it, and nothing that it made stays."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from cli.exit_codes import ExitCode
from tests.cli.demo.telling import find_processes, list_namespaces, start_demo
from tests.cli.demo.waiting import wait_until

READY = {
    "while sidecars start": "2. Two sidecars join",
    "while requests run": "9. The issuer is rotated",
}


def end_at(directory: Path, text: str, number: signal.Signals, *options: str) -> int:
    """Run the demo until it has said a text, send it a signal, and return its exit code."""
    demo = start_demo(directory, *options)
    try:
        wait_until(lambda: text in (directory / "out").read_text() or demo.poll() is not None, timeout_s=120)
        demo.send_signal(number)
        return demo.wait(30)
    finally:
        demo.kill()
        demo.wait()


def assert_nothing_stays(directory: Path) -> None:
    assert not list((directory / "tmp").iterdir())
    assert not find_processes(str(directory / "tmp"))


@pytest.mark.parametrize("moment", READY)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_in_mid_story_cleans_up(tmp_path: Path, moment: str, number: signal.Signals) -> None:
    assert end_at(tmp_path, READY[moment], number, "--capture", "listeners") == ExitCode.INTERRUPTED
    assert (tmp_path / "err").read_text().endswith("interrupted\n")
    assert_nothing_stays(tmp_path)


@pytest.mark.needs_root
def test_namespaces_go_too(tmp_path: Path) -> None:
    code = end_at(tmp_path, "3. The server's program", signal.SIGTERM, "--capture", "redirect")
    assert code == ExitCode.INTERRUPTED
    assert_nothing_stays(tmp_path)
    made = {word for word in (tmp_path / "out").read_text().split() if word.startswith("tm-")}
    assert made
    assert not made & list_namespaces()


def test_kept_it_answers_the_narrated_commands_until_ctrl_c(tmp_path: Path) -> None:
    demo = start_demo(tmp_path, "--capture", "listeners", "--keep")
    try:
        wait_until(
            lambda: "touchmark ca status" in (tmp_path / "out").read_text() or demo.poll() is not None, timeout_s=120
        )
        kept = (tmp_path / "out").read_text().split("until Ctrl-C")[1].splitlines()
        [curl] = [line.partition("$ ")[2] for line in kept if "curl" in line]
        answer = subprocess.run(["sh", "-c", curl], capture_output=True, timeout=20, check=False, env=os.environ)
        assert answer.stdout.startswith(b"hello from shop/web"), (kept, answer)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(30) == ExitCode.SUCCESS
    finally:
        demo.kill()
        demo.wait()
    assert_nothing_stays(tmp_path)
