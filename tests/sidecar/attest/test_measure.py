"""Measuring a process: compared before and after; nothing is believed because of a path or a time alone."""

import asyncio
import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from shared.model.policy.reasons import Reason
from sidecar.attest.executable import Executables
from sidecar.attest.facts import AttestationError
from sidecar.attest.measure import Measuring, agree
from sidecar.attest.process import Process
from tests.sidecar.attest.processes import PYTHON, WAIT, copy_program, digest_of, running


def tamper(program: Path) -> None:
    with program.open("r+b") as file, mmap.mmap(file.fileno(), 0) as pages:
        assert pages[-8:]
        pages[-8:] = b"tampered"


async def test_a_process_that_does_not_hold_the_socket_is_refused() -> None:
    with ThreadPoolExecutor(2) as workers, running("import sys\n" + WAIT) as child:
        measuring = Measuring(Executables(workers, max_bytes=1 << 30), workers)
        with pytest.raises(AttestationError) as caught:
            await measuring.measure(partial(Process, child.pid), 1)
        assert caught.value.reason is Reason.PROCESS_VANISHED
        assert caught.value.process is not None


async def test_a_file_changed_without_a_new_time_is_hashed_again() -> None:
    """On tmpfs a page that was read through a mapping is written without a new ctime: times prove nothing there."""
    program = Path(f"/dev/shm/touchmark-test-{os.getpid()}")
    copy_program(PYTHON, program, b"approved")
    await asyncio.sleep(0.2)  # A file that has just changed isn't cached in any case.
    digests = []
    try:
        with ThreadPoolExecutor(2) as workers:
            measuring = Measuring(Executables(workers, max_bytes=1 << 30), workers)
            for _ in range(2):
                with running("import sys\n" + WAIT, program=str(program)) as child:
                    found = await measuring.measure(partial(Process, child.pid), 0)
                    digests.append(found.program.digest)
                    found.process.close()
                assert digests[-1] == digest_of(program)
                before = program.stat().st_ctime_ns
                tamper(program)
                assert program.stat().st_ctime_ns == before
    finally:
        program.unlink()
    assert digests[0] != digests[1]


def test_a_port_on_which_only_the_sidecar_listens_has_no_listener() -> None:
    with pytest.raises(AttestationError, match="only the sidecar listens on port 80") as caught:
        agree([], 80)
    assert caught.value.reason is Reason.NO_LISTENER
