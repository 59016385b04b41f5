"""Children end with the demo, and one that ended early is named with its last words."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.demo.processes import Processes
from shared.model.errors import UnavailableError
from tests.cli.demo.waiting import wait_until


def read_children() -> set[int]:
    """Return this process's children, whichever thread started them, as proc(5) lists them."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # A thread of a test before has ended just now; its children go to another.
            found.update(map(int, (task / "children").read_text().split()))
    return found


@contextlib.contextmanager
def alarms_as_ctrl_c() -> Iterator[None]:
    """SIGALRM does what SIGINT does, which may be ignored where tests run in the background."""
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, previous)


def test_every_child_ends(tmp_path: Path) -> None:
    others = read_children()  # Of servers that tests share.
    processes = Processes(tmp_path, {})
    processes.start("quiet", ["sleep", "300"])
    mine = read_children() - others
    assert mine
    processes.end()
    assert not mine & read_children()


def test_a_child_that_ended_is_named_with_its_last_words(tmp_path: Path) -> None:
    processes = Processes(tmp_path, {})
    processes.start("server", ["sh", "-c", "echo the port is in use; exit 3"])
    wait_until(lambda: "port" in processes.log_of("server").read_text())

    def has_ended() -> bool:
        try:
            processes.check()
        except UnavailableError:
            return True
        return False

    wait_until(has_ended)
    with pytest.raises(UnavailableError, match=r"(?s)server exited with code 3.*the port is in use"):
        processes.check()


def test_a_command_that_hangs_ends_at_its_deadline(tmp_path: Path) -> None:
    assert Processes(tmp_path, {}).run(["sleep", "60"], timeout_s=0.1).code == 124


def test_errors_come_in_the_order_of_a_terminal_when_merged(tmp_path: Path) -> None:
    command = ["sh", "-c", "echo first >&2; echo second; echo third >&2"]
    assert Processes(tmp_path, {}).run(command, timeout_s=60, is_merged=True).output == "first\nsecond\nthird\n"
    assert Processes(tmp_path, {}).run(command, timeout_s=60).errors == "first\nthird\n"


def test_a_command_that_ctrl_c_meets_while_it_starts_ends_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            os.kill(os.getpid(), signal.SIGALRM)
            time.sleep(0.2)  # It runs, and no caller holds it yet.

    processes = Processes(tmp_path, {})
    before = read_children()
    with alarms_as_ctrl_c(), monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(subprocess, "Popen", Interrupted)
        processes.run(["sleep", "300"], timeout_s=600)
    processes.end()
    assert not read_children() - before


def test_a_command_that_ctrl_c_meets_while_it_runs_ends_too(tmp_path: Path) -> None:
    processes = Processes(tmp_path, {})
    before = read_children()
    with alarms_as_ctrl_c(), pytest.raises(KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        processes.run(["sleep", "300"], timeout_s=600)
    assert not read_children() - before
    processes.end()
