"""What a holder runs, at one look."""

import os

from shared.model.policy.reasons import Reason
from sidecar.attest.facts import AttestationError, Execution
from sidecar.attest.holding.glance import glance_at_all, read_execution
from tests.sidecar.attest.processes import WAIT, running

_GONE = 2**22 + 1  # Above every process ID.


def test_a_fork_is_told_from_another_program() -> None:
    fork = "import os,sys\nif not os.fork():\n    import time\n    time.sleep(600)\n" + WAIT
    with running(fork) as parent, running("import sys\n" + WAIT) as other:
        with open(f"/proc/{parent.pid}/task/{parent.pid}/children", "rb") as file:
            child = int(file.read())
        found = glance_at_all((parent.pid, child, other.pid))
        first, second, third = (found[pid] for pid in (parent.pid, child, other.pid))
        os.kill(child, 9)
    assert isinstance(first, Execution)
    assert isinstance(second, Execution)
    assert isinstance(third, Execution)
    assert second.is_fork_of(first)
    assert not third.is_fork_of(first)


def test_who_has_ended_runs_nothing() -> None:
    assert read_execution(_GONE) is None
    found = glance_at_all([_GONE])[_GONE]
    assert isinstance(found, AttestationError)
    assert found.reason is Reason.PROCESS_VANISHED
