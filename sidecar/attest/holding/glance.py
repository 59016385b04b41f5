"""What a holder runs, at one quick look: enough to recognise an ``execve`` that was measured. Does I/O on ``/proc``.

Most holders are the attested process and forks of it: they need no measuring.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from shared.model.policy.reasons import Reason
from sidecar.attest.claimed import refuse_claimed_executable
from sidecar.attest.facts import AttestationError, Execution
from sidecar.attest.process import Process


def read_execution(pid: int, proc: str = "/proc") -> Execution | None:
    """Read which ``execve`` a process runs; None when that can't be told, as for ``glance``."""
    found = glance(pid, proc)
    return found if isinstance(found, Execution) else None


def glance(pid: int, proc: str = "/proc") -> Execution | AttestationError:
    """Read which ``execve`` a process runs, if none of its threads is traced and its executable is to be believed."""
    try:
        process = Process(pid, proc=proc)
        try:
            process.refuse_tracer(all_threads=True)
            executable = process.open_executable()
            try:
                refuse_claimed_executable(process, executable)
                status = os.fstat(executable)
            finally:
                os.close(executable)
            if process.has_executed():
                raise AttestationError(f"process {pid} executed a program", reason=Reason.PROCESS_VANISHED)
        finally:
            process.close()
    except AttestationError as error:
        return error
    image = process.image
    return Execution(
        pid, image.start_time, status.st_dev, status.st_ino, image.code, image.stack, image.arguments, process.memory
    )


def glance_at_all(pids: Iterable[int], proc: str = "/proc") -> dict[int, Execution | AttestationError]:
    """Glance at each of these processes; runs in a worker."""
    return {pid: glance(pid, proc) for pid in pids}
