"""A process that makes ``/proc/<pid>/exe`` name another file isn't believed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import pytest

from shared.model.policy.reasons import Reason
from sidecar.attest.claimed import refuse_claimed_executable
from sidecar.attest.executable import Executables
from sidecar.attest.facts import AttestationError
from sidecar.attest.measure import Measuring
from sidecar.attest.process import Process
from tests.sidecar.attest.forging import FORGE, executable_of, needs_forging
from tests.sidecar.attest.processes import WAIT, digest_of, hear, running, tell

CLAIMED = os.path.realpath(shutil.which("sleep") or "/bin/sleep")


async def measure(pid: int) -> str:
    """Measure a process as attestation does, and return its digest."""
    with ThreadPoolExecutor(2) as workers:
        measured = await Measuring(Executables(workers, max_bytes=1 << 30), workers).measure(partial(Process, pid), 0)
    measured.process.close()
    return measured.program.digest


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
