"""A file of overlayfs that a user mounted in a namespace of his own isn't believed; a container's is."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.model.policy.reasons import Reason
from sidecar.attest.claimed import refuse_claimed_executable
from sidecar.attest.facts import AttestationError
from sidecar.attest.mounts import is_foreign_mount
from sidecar.attest.process import Process
from tests.sidecar.attest.processes import digest_of

SLEEP = os.path.realpath(shutil.which("sleep") or "/bin/sleep")
CAT = os.path.realpath(shutil.which("cat") or "/bin/cat")
_OVERLAY = "mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work,userxattr merged"


@contextmanager
def started(command: list[str], directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a command that ends in a process that says ``ready`` and waits."""
    child = subprocess.Popen(command, cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield child
    finally:
        child.kill()
        child.communicate()


@pytest.fixture
def layers(tmp_path: Path) -> Path:
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    shutil.copy(SLEEP, tmp_path / "lower/program")
    return tmp_path


@contextmanager
def sleeping(path: str) -> Iterator[Process]:
    with subprocess.Popen([path, "600"]) as child:
        try:
            process = Process(child.pid)
            yield process
            process.close()
        finally:
            child.kill()


def test_a_file_that_turns_into_another_program_beneath_its_process_is_refused(layers: Path) -> None:
    """Nobody's privileges: the process itself is in its own namespaces, the file system is in another user's."""
    with started(["unshare", "-Urm", "sh", "-c", f"{_OVERLAY} && echo ready && read x"], layers) as mounter:
        inside = Path(f"/proc/{mounter.pid}/root{layers}/merged/program")
        with sleeping(str(inside)) as process:
            assert digest_of(f"/proc/{process.pid}/exe") == digest_of(SLEEP)
            os.utime(inside)  # Copies it up.
            shutil.copyfile(CAT, layers / "upper/program")
            assert digest_of(f"/proc/{process.pid}/exe") == digest_of(CAT)
            executable = process.open_executable()
            try:
                with pytest.raises(AttestationError) as caught:
                    refuse_claimed_executable(process, executable)
            finally:
                os.close(executable)
    assert caught.value.reason is Reason.EXECUTABLE_FORGED


@pytest.mark.needs_root
@pytest.mark.parametrize("how", ["", "chroot . "], ids=["in its own root", "in another root"])
def test_a_file_of_the_processes_own_mounts_is_believed(layers: Path, how: str) -> None:
    """A container's root is overlayfs; a daemon that changes its root sees no mounts but its parent does."""
    (layers / "lower/bin").mkdir()
    script = f"{_OVERLAY.replace(',userxattr', '')} && cd merged && {how}./program 600 & echo ready; wait"
    if how:
        for path in ["/lib64", *_libraries()]:
            target = layers / f"lower{path}"
            if os.path.isfile(path):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
    with started(["unshare", "-m", "sh", "-c", script], layers) as shell:
        process = _find_program(shell.pid)
        executable = process.open_executable()
        try:
            assert not is_foreign_mount(process.memory.directory, executable)
            refuse_claimed_executable(process, executable)
        finally:
            os.close(executable)
            process.close()
            os.kill(process.pid, 9)


def _find_program(pid: int) -> Process:
    """Wait until the last descendant of a shell is the program."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        last = pid
        try:
            while children := Path(f"/proc/{last}/task/{last}/children").read_text(encoding="ascii").split():
                last = int(children[0])
            process = Process(last)
        except (AttestationError, OSError):  # It executes the next command just now.
            continue
        is_there = process.facts.path.endswith("program")
        process.close()
        # Once it sleeps it runs its own code: what was opened while it was executed is of the address space before.
        if is_there and Path(f"/proc/{last}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "S":
            return Process(last)
        time.sleep(0.01)
    pytest.fail("the program didn't start")


def _libraries() -> list[str]:
    """What the program needs to start below another root."""
    output = subprocess.run(["ldd", SLEEP], capture_output=True, text=True, check=True).stdout
    return [word for word in output.split() if word.startswith("/")]
