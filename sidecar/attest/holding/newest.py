"""Whether one of the newest processes holds a socket: those that send something and exit are among them.

On the event loop, some hundred microseconds at most: a search in a worker comes too late for such a sender.
"""

from __future__ import annotations

import os

from sidecar.attest.facts import AttestationError
from sidecar.attest.holding.tables import HiddenError, find_in_table
from sidecar.attest.process import Process
from sidecar.native.engine import current_look

_MAX_PROCESSES = 8
_MAX_DESCRIPTORS = 64
_COMPILED_FACTOR = 4


def find_among_newest(inode: int, *, own_pid: int, proc: str = "/proc") -> Process | None:
    """Open the process that holds a socket if it is one of the newest eight (compiled: 32) and has few descriptors.

    Arguments:
        own_pid: the sidecar, which is left out.

    Returns:
        The process, which the caller closes; None when another search has to tell.
    """
    try:
        with open(f"{proc}/loadavg", "rb", buffering=0) as file:
            last = int(file.read(128).rsplit(None, 1)[-1])
        most = _MAX_PROCESSES * (1 if current_look() is None else _COMPILED_FACTOR)
        for pid in range(last, max(last - most, 0), -1):
            if pid != own_pid and _holds(pid, inode, proc):
                return Process(pid, proc=proc)
    except (OSError, ValueError, HiddenError, AttestationError):
        pass
    return None


def _holds(pid: int, inode: int, proc: str) -> bool:
    try:
        # Since Linux 6.2 the size of this directory is the number of descriptors; before that it is 0.
        if os.stat(f"{proc}/{pid}/fd").st_size > _MAX_DESCRIPTORS:
            return False
    except OSError:
        return False
    return bool(find_in_table(pid, (inode,), proc))
