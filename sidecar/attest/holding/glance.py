"""What a holder runs, at one quick look: enough to recognise an ``execve`` that was measured. Does I/O on ``/proc``.

Most holders are the attested process and forks of it: they need no measuring.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from sidecar.attest.facts import AttestationError, Execution
from sidecar.attest.process import Process
from sidecar.attest.process_text import ProcessTextError, parse_stat

_STAT_BYTES = 2_048


def read_execution(pid: int, proc: str = "/proc") -> Execution | None:
    """Read which ``execve`` a process runs; None when it has ended or may not be inspected. No tracer is looked for."""
    try:
        file = os.stat(f"{proc}/{pid}/exe")
        descriptor = os.open(f"{proc}/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            image = parse_stat(os.read(descriptor, _STAT_BYTES))
        finally:
            os.close(descriptor)
    except (OSError, ProcessTextError):
        return None
    return Execution(pid, image.start_time, file.st_dev, file.st_ino, image.code, image.stack, image.arguments)


def glance(pid: int, proc: str = "/proc") -> Execution | AttestationError:
    """Read which ``execve`` a process runs, and see that none of its threads is traced; or why that can't be told."""
    try:
        process = Process(pid, proc=proc)
        try:
            process.refuse_tracer(all_threads=True)
            device, file, *_ = process.read_executable()
            image = process.read_image()
        finally:
            process.close()
    except AttestationError as error:
        return error
    return Execution(pid, image.start_time, device, file, image.code, image.stack, image.arguments)


def glance_at_all(pids: Iterable[int], proc: str = "/proc") -> dict[int, Execution | AttestationError]:
    """Glance at each of these processes; runs in a worker."""
    return {pid: glance(pid, proc) for pid in pids}
