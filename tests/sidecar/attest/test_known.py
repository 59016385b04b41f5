"""The held processes are bounded, and the last holder comes first."""

import os
from contextlib import ExitStack

from shared.model.identity.program import Program
from sidecar.attest.facts import Execution
from sidecar.attest.known import KnownProcesses
from sidecar.attest.measure import Measured
from sidecar.attest.process import Process
from tests.sidecar.attest.processes import WAIT, running


def measured(pid: int) -> Measured:
    process = Process(pid)
    execution = Execution(pid, process.image.start_time, 0, 0, 0, 0, 0, process.memory)
    return Measured(
        process=process, key=process.read_executable(), program=Program(digest="0" * 64), execution=execution
    )


def test_the_oldest_goes_first_and_the_last_holder_leads() -> None:
    known = KnownProcesses(max_processes=2)
    with ExitStack() as stack:
        pids = [stack.enter_context(running("import sys\n" + WAIT)).pid for _ in range(3)]
        for pid in pids[:2]:
            known.add(measured(pid))
        uid = os.getuid()
        known.remember("kind", pids[0], "5")
        assert [(one.process.pid, hint) for one, hint in known.candidates("kind", uid)] == [
            (pids[0], "5"),
            (pids[1], ""),
        ]
        known.add(measured(pids[2]))
        assert [one.process.pid for one, _ in known.candidates("other", uid)] == [pids[2], pids[0]]
        assert len(known) == 2
    known.close()
    assert len(known) == 0


def test_a_reused_number_replaces_the_process_that_had_it() -> None:
    known = KnownProcesses(max_processes=2)
    with running("import sys\n" + WAIT) as child:
        first, second = measured(child.pid), measured(child.pid)
        known.add(first)
        known.add(second)
        assert [one for one, _ in known.candidates("kind", os.getuid())] == [second]
        assert len(known) == 1
    known.close()


def test_a_process_is_older_than_what_began_after_it_was_measured() -> None:
    known, pid = KnownProcesses(max_processes=2), os.getpid()
    known.add(measured(pid), now=5)
    assert known.is_older(pid, 5)
    assert not known.is_older(pid, 4.9)
    known.drop(pid)
    assert not known.is_older(pid, 6)
