"""A run of its own: nothing of it stays, whichever way it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts.kubernetes import isolation

pytestmark = pytest.mark.needs_root


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the runs, in a cache of the test's own."""
    monkeypatch.setenv("TOUCHMARK_CACHE", str(tmp_path))
    monkeypatch.delenv(isolation.RUN_VARIABLE, raising=False)
    return tmp_path / "kubernetes" / "run"


def isolated(*command: str) -> list[str]:
    return [sys.executable, "-m", "scripts.kubernetes.isolation", *command]


@pytest.fixture
def started(runs: Path) -> Iterator[tuple[subprocess.Popen[str], int, Path]]:
    """A run whose command waits, the process id of that command outside, and the run's directory."""
    script = (
        'mkdir "/sys/fs/cgroup/pids/touchmark-${TOUCHMARK_NODE_RUN##*/}" 2>/dev/null; echo ready; exec sleep 7654321'
    )
    process = subprocess.Popen(isolated("bash", "-c", script), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    (run,) = [each for each in runs.iterdir() if each.is_dir()]
    wait_until(lambda: find(str(run)) is not None)
    inside = find(str(run))
    assert inside is not None
    yield process, inside, run
    process.kill()
    process.wait()
    process.stdout.close()


def find(run: str) -> int | None:
    """The process id of the sleeping command of this run, as seen from here."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            arguments = Path("/proc", entry, "cmdline").read_bytes().split(b"\0")
            environment = Path("/proc", entry, "environ").read_bytes()
        except OSError:
            continue
        if arguments[:2] == [b"sleep", b"7654321"] and run.encode() in environment:
            return int(entry)
    return None


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_the_command_has_loopback_alone_and_its_exit_code_counts(runs: Path) -> None:
    script = "cat /proc/net/dev; cat /proc/sys/kernel/panic; touch /var/lib/left-by-a-test /run/left-by-a-test; exit 7"
    before = Path("/proc/sys/kernel/panic").read_text()
    result = subprocess.run(isolated("sh", "-c", script), check=False, text=True, capture_output=True)
    assert result.returncode == 7
    devices = [line.split(":")[0].strip() for line in result.stdout.splitlines() if ":" in line]
    assert devices == ["lo"]
    assert result.stdout.splitlines()[-1] == "10", "what the kubelet wants to find"
    assert Path("/proc/sys/kernel/panic").read_text() == before
    assert not Path("/var/lib/left-by-a-test").exists()
    assert not Path("/run/left-by-a-test").exists()
    assert [each for each in runs.iterdir() if each.is_dir()] == []


def test_a_run_that_is_asked_to_end_takes_everything_along(
    started: tuple[subprocess.Popen[str], int, Path],
) -> None:
    process, inside, run = started
    process.send_signal(signal.SIGTERM)
    process.wait(120)
    wait_until(lambda: not is_alive(inside))
    assert not run.exists()
    assert not Path("/sys/fs/cgroup/pids", isolation.cgroup(run)).exists()


def test_the_next_run_takes_away_what_a_killed_one_left(
    started: tuple[subprocess.Popen[str], int, Path], runs: Path
) -> None:
    """The kernel ends the processes; directory and control groups are recognised by an unheld lock."""
    process, inside, run = started
    process.kill()
    process.wait(120)
    wait_until(lambda: not is_alive(inside))
    assert run.exists()
    result = subprocess.run(isolated("true"), check=True, text=True, capture_output=True)
    assert run.name in result.stderr
    assert not run.exists()
    assert not Path("/sys/fs/cgroup/pids", isolation.cgroup(run)).exists()


def test_a_run_that_lives_is_left_alone(started: tuple[subprocess.Popen[str], int, Path]) -> None:
    _, inside, run = started
    subprocess.run(isolated("true"), check=True)
    assert run.exists()
    assert is_alive(inside)
