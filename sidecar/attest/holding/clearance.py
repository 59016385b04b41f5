"""Which processes a whole pass has cleared, and which tasks have come since. On the event loop, some microseconds.

A process is cleared when a complete pass has seen that nobody but its own program holds any of its TCP sockets. A new
socket of it then needs no pass of its own before its first byte: who could hold it is a task that came later (looked at
here), or one to which the cleared program itself hands it (which the next passes find).
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Iterable

from sidecar.attest.facts import Attestation, Execution
from sidecar.attest.holding.glance import read_execution
from sidecar.attest.holding.tables import PREFIX, HiddenError, NewTasks, inode_of, list_links, read_leader

_MAX_CLEARED = 4_096
_LIFE_S = 10.0
# More at once are left to the next pass: the event loop has other work.
_MAX_NEW_TASKS = 64
_MAX_NEW_DESCRIPTORS = 512
_MAX_NEW_SOCKETS = 65_536


class Clearance:
    """Belongs to the event loop's thread.

    Arguments:
        own_pid: the sidecar, which is left out.
        proc: where ``proc(5)`` is mounted.
    """

    def __init__(self, *, own_pid: int, proc: str = "/proc") -> None:
        self._own_pid = own_pid
        self._proc = proc
        self._tasks = NewTasks(proc)
        self._cleared: OrderedDict[Execution, float] = OrderedDict()
        # What tasks that came after the last pass hold; those that weren't there when they were looked at.
        self._newly_held: dict[int, set[int]] = {}
        self._absent: tuple[int, ...] = ()
        self._is_blind = False

    def close(self) -> None:
        """Close the kept descriptor."""
        self._tasks.close()

    def is_clear(self, attestation: Attestation) -> bool:
        """Tell whether a socket of this process needs no pass before its first byte; never waits."""
        since = self._cleared.get(attestation.execution)
        if since is None or time.monotonic() - since > _LIFE_S:
            return False
        if (self._absent or self._tasks.has_news()) and not self._is_blind:
            self._look_at_new()
        if self._is_blind:
            return False
        return not self._newly_held or all(
            self._is_fork(pid, attestation)
            for inode in (attestation.inode, *attestation.others)
            for pid in self._newly_held.get(inode, ())
        )

    def begin(self) -> int:
        """A pass begins: return its mark for ``note``."""
        return self._tasks.read()

    def note(self, mark: int, cleared: Iterable[Execution]) -> None:
        """A complete pass has ended: remember whom it has cleared; every task that came since its begin is new."""
        now = time.monotonic()
        for execution in cleared:
            self._cleared[execution] = now
            self._cleared.move_to_end(execution)
        while len(self._cleared) > _MAX_CLEARED:
            self._cleared.popitem(last=False)
        self._tasks.last = mark
        self._newly_held.clear()
        self._absent = ()
        self._is_blind = False

    def forget(self, execution: Execution) -> None:
        """A socket of this process is shared, or that couldn't be told."""
        self._cleared.pop(execution, None)

    def _is_fork(self, pid: int, attestation: Attestation) -> bool:
        """Tell whether a new holder runs the attested program: a server that forks for each connection is common."""
        if pid == attestation.process.pid:
            return True
        execution = read_execution(pid, self._proc)
        return execution is not None and execution.is_fork_of(attestation.execution)

    def _look_at_new(self) -> None:
        new = self._tasks.take(_MAX_NEW_TASKS)
        if new is None:
            self._is_blind = True
            return
        absent, left = [], _MAX_NEW_DESCRIPTORS
        for task in (*self._absent, *new):
            try:
                leader = read_leader(task, self._proc)
                if not leader and task in new:
                    absent.append(task)  # The kernel draws its number shortly before it shows it.
                if leader == task and task != self._own_pid:
                    left -= self._look_at(task, left)
            except FileNotFoundError:  # It has ended.
                continue
            except (OSError, HiddenError):
                left = -1
            if left < 0 or len(self._newly_held) > _MAX_NEW_SOCKETS:
                self._is_blind = True
                return
        self._absent = tuple(absent)

    def _look_at(self, task: int, left: int) -> int:
        """Note the sockets of a new process; return its descriptors, more than ``left`` if it isn't done."""
        # Since Linux 6.2 the size of this directory is the number of descriptors; before that it is 0.
        if (size := os.stat(f"{self._proc}/{task}/fd").st_size) > left:
            return size
        looked = 0
        for looked, (_, link) in enumerate(list_links(task, str(task), self._proc), 1):
            if looked > left:
                break
            if link.startswith(PREFIX):
                self._newly_held.setdefault(inode_of(link), set()).add(task)
        return looked
