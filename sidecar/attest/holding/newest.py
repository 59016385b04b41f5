"""Whether one of the newest processes holds a socket: those that send something and exit are among them.

On the event loop, two or three milliseconds of its processor time at most: a search in a worker comes too late for
such a sender.
"""

from __future__ import annotations

import os
import time

from sidecar.attest.facts import AttestationError
from sidecar.attest.holding.tables import HiddenError, find_in_table, read_leader
from sidecar.attest.process import Process
from sidecar.native.engine import current_look

_MAX_PROCESSES = 8
# Of one process, and of each on average. A descriptor costs 1 to 10 µs, the most where the machine is busy.
_MAX_DESCRIPTORS = 128
_USUAL_DESCRIPTORS = 64
_COMPILED_FACTOR = 4
# After so much of the loop's own time no further process is looked at. Not by the clock: on a busy machine this thread
# may be put aside, and the sender as well.
_MAX_CPU_S = 0.0015


def find_among_newest(inode: int, *, own_pid: int, proc: str = "/proc") -> Process | None:
    """Open the process that holds a socket if it, or a thread of it, is one of the newest eight (compiled: 32).

    The kernel numbers processes and threads alike. A process that has many descriptors is left out.

    Arguments:
        own_pid: the sidecar, which is left out.

    Returns:
        The process, which the caller closes; None when another search has to tell.
    """
    factor = 1 if current_look() is None else _COMPILED_FACTOR
    most = _MAX_PROCESSES * factor
    left = most * _USUAL_DESCRIPTORS
    until = time.thread_time() + _MAX_CPU_S
    try:
        with open(f"{proc}/loadavg", "rb", buffering=0) as file:
            last = int(file.read(128).rsplit(None, 1)[-1])
        for task in range(last, max(last - most, 0), -1):
            count = _count_descriptors(task, proc)
            if task == own_pid or count is None or count > min(_MAX_DESCRIPTORS, left):
                continue
            if time.thread_time() >= until:
                return None
            left -= count
            # A thread mostly has the table of its process, and a program that has just begun often has threads.
            if not _holds(task, inode, proc) or (leader := read_leader(task, proc)) in (0, own_pid):
                continue
            # With a table of its own it proves nothing, and the process's may be one that takes a second to search.
            if leader == task or _is_small_and_holds(leader, inode, _MAX_DESCRIPTORS, proc):
                return Process(leader, proc=proc)
    except (OSError, ValueError, AttestationError):
        pass
    return None


def _count_descriptors(task: int, proc: str) -> int | None:
    try:
        # Since Linux 6.2 the size of this directory is the number of descriptors; before that it is 0.
        return os.stat(f"{proc}/{task}/fd").st_size
    except OSError:
        return None


def _is_small_and_holds(pid: int, inode: int, most: int, proc: str) -> bool:
    count = _count_descriptors(pid, proc)
    return count is not None and count <= most and _holds(pid, inode, proc)


def _holds(task: int, inode: int, proc: str) -> bool:
    try:
        return bool(find_in_table(task, (inode,), proc))
    except HiddenError:  # One that can't be looked into doesn't keep the others from being found.
        return False
