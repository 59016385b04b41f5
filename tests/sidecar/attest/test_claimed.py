"""A process that makes ``/proc/<pid>/exe`` name another file isn't believed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from shared.model.identity.program import Program
from shared.model.policy.reasons import Reason
from sidecar.attest.claimed import refuse_claimed_executable
from sidecar.attest.executable import Executables
from sidecar.attest.facts import AttestationError
from sidecar.attest.measure import Measuring
from sidecar.attest.process import Process
from tests.sidecar.attest.forging import FORGE, executable_of, needs_forging
from tests.sidecar.attest.processes import PYTHON, WAIT, digest_of, hear, running, tell

CLAIMED = os.path.realpath(shutil.which("sleep") or "/bin/sleep")

LOADER = next(line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if re.search("/ld-", line))


async def measure(pid: int) -> str:
    """Measure a process as attestation does, and return its digest."""
    return (await measure_program(pid)).digest


@contextmanager
def forging(how: str) -> Iterator[int]:
    with running(FORGE, "", CLAIMED, how) as child:
        tell(child)
        assert hear(child) == "1"
        assert executable_of(child.pid) == CLAIMED
        yield child.pid


@needs_forging
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("own namespace", Reason.USER_NAMESPACE_DIFFERS),
        ("mapped", Reason.USER_NAMESPACE_DIFFERS),
        ("from outside", Reason.EXECUTABLE_FORGED),
    ],
    ids=["in its own user namespace", "with the file mapped", "by a child in another one that shares its memory"],
)
async def test_a_process_that_names_another_executable_is_refused(how: str, reason: Reason) -> None:
    with forging(how) as pid:
        with pytest.raises(AttestationError) as caught:
            await measure(pid)
        assert caught.value.reason is reason
        assert caught.value.process is not None
        assert caught.value.process.pid == pid


@needs_forging
async def test_one_that_maps_the_file_and_never_left_its_namespace_is_believed() -> None:
    """The limit: it is a process of that program with foreign code in its memory, which the look at its code shows."""
    with forging("mapped from outside") as pid:
        assert await measure(pid) == digest_of(CLAIMED)


async def test_a_process_in_a_user_namespace_of_its_own_is_refused_whatever_it_runs() -> None:
    code = "import ctypes, sys\nassert not ctypes.CDLL(None).unshare(0x10000000)\n" + WAIT
    with running(code) as child, pytest.raises(AttestationError) as caught:
        await measure(child.pid)
    assert caught.value.reason is Reason.USER_NAMESPACE_DIFFERS


async def test_a_process_that_has_ended_is_no_forgery() -> None:
    with running("import sys\n" + WAIT) as child:
        process = Process(child.pid)
        executable = process.open_executable()
    try:
        with pytest.raises(AttestationError) as caught:
            refuse_claimed_executable(process, executable)
    finally:
        os.close(executable)
        process.close()
    assert caught.value.reason is Reason.PROCESS_VANISHED


@contextmanager
def started(command: list[str], executable: str) -> Iterator[int]:
    """Run a command until it executes this file and waits there."""
    child = subprocess.Popen(command, stdin=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 30
        while os.readlink(f"/proc/{child.pid}/exe") != executable or not _waits(child.pid):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        yield child.pid
    finally:
        child.kill()
        child.communicate()


def _waits(pid: int) -> bool:
    """Tell whether it has yet to reach its own code: it sleeps once that runs."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


async def measure_program(pid: int) -> Program:
    with ThreadPoolExecutor(2) as workers:
        measured = await Measuring(Executables(workers, max_bytes=1 << 30), workers).measure(partial(Process, pid), 0)
    measured.process.close()
    return measured.program


@pytest.mark.parametrize("is_copy", [False, True], ids=["under its name", "as a copy with a program's name"])
async def test_a_dynamic_loader_is_never_the_bare_program(tmp_path: Path, is_copy: bool) -> None:
    """``ld.so PROGRAM`` runs anything: what it runs is a claim under its own name, and none under another."""
    loader = LOADER
    if is_copy:
        loader = str(tmp_path / "curl")
        shutil.copy(LOADER, loader)
    with started([loader, CLAIMED, "600"], os.path.realpath(loader)) as pid:
        program = await measure_program(pid)
    assert program == Program(digest=digest_of(LOADER), main="none" if is_copy else digest_of(CLAIMED))


async def test_a_deleted_file_and_one_without_a_name_are_measured_by_what_runs(tmp_path: Path) -> None:
    """A memfd (``fexecve``) has a digest as any file has."""
    copy = tmp_path / "program"
    shutil.copy(CLAIMED, copy)
    memory = (
        "import os\nm = os.memfd_create('sleep')\n"
        f"os.write(m, open({CLAIMED!r}, 'rb').read())\n"
        "r = os.open(f'/proc/self/fd/{m}', os.O_RDONLY)\nos.close(m)\nos.execve(r, ['sleep', '600'], {})\n"
    )
    with started([str(copy), "600"], str(copy)) as pid:
        copy.unlink()
        assert await measure(pid) == digest_of(CLAIMED)
    with started([PYTHON, "-c", memory], "/memfd:sleep (deleted)") as pid:
        assert await measure(pid) == digest_of(CLAIMED)


async def test_a_script_is_its_interpreter(tmp_path: Path) -> None:
    script = tmp_path / "curl"
    script.write_text("#!/bin/sh\nread x\n")
    script.chmod(0o755)
    with started([str(script)], os.path.realpath("/bin/sh")) as pid:
        program = await measure_program(pid)
    assert program == Program(digest=digest_of(os.path.realpath("/bin/sh")), main=digest_of(script))


_REGISTER = """
mount -t binfmt_misc none "$1" && echo ":touchmark:M::#TOUCHMARK::$2:" > "$1/register" && exec "$3"
"""


@contextmanager
def waiting(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


async def test_what_binfmt_misc_starts_is_its_interpreter(tmp_path: Path) -> None:
    """Since Linux 6.7 each user namespace has its own; that of the node takes root there to change."""
    (mount := tmp_path / "binfmt").mkdir()
    program = tmp_path / "program"
    program.write_text("#TOUCHMARK\nimport sys\n" + WAIT)
    program.chmod(0o755)
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _REGISTER, "sh"]
    command += [str(mount), PYTHON, str(program)]
    with waiting(command) as child:
        if hear(child) != "ready":
            pytest.skip("no binfmt_misc in a user namespace")
        assert executable_of(child.pid) == PYTHON
        with pytest.raises(AttestationError) as caught:
            await measure(child.pid)
        assert caught.value.reason is Reason.USER_NAMESPACE_DIFFERS
