"""Which processes a whole pass has cleared, and which tasks have come since. On the event loop, some microseconds.

A process is cleared when a complete pass has seen that nobody but its own program holds any of its TCP sockets. A new
socket of it then needs no pass of its own before its first byte: who could hold it is a task that came later (looked at
here), or one to which the cleared program itself hands it (which the next passes find).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from sidecar.attest.facts import Attestation, Execution
from sidecar.attest.holding.glance import read_execution
from sidecar.attest.holding.tables import HiddenError, NewTasks, outranks, read_leader, read_table

_MAX_CLEARED = 1_024
_LIFE_S = 10.0
# More at once are left to the next pass: the event loop has other work.
_MAX_NEW_TASKS = 64
_MAX_NEW_DESCRIPTORS = 512
_MAX_NEW_SOCKETS = 65_536
# For a worker: beyond them a whole pass costs no more.
_MAX_TASKS = 4_096
_MAX_DESCRIPTORS = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What new tasks hold.

    Attributes:
        held: by inode of a socket, the process IDs.
        absent: tasks that weren't there (any more, or yet).
    """

    held: dict[int, set[int]]
    absent: tuple[int, ...]


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
        self._passes = 0

    def close(self) -> None:
        """Close the kept descriptor."""
        self._tasks.close()

    def is_cleared(self, execution: Execution) -> bool:
        """Tell whether a pass has cleared this process lately; tasks that came since are another matter."""
        since = self._cleared.get(execution)
        return since is not None and time.monotonic() - since <= _LIFE_S

    def is_clear(self, attestation: Attestation) -> bool:
        """Tell whether a socket of this process needs no pass before its first byte; never waits."""
        if not self.is_cleared(attestation.execution):
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

    async def catch_up(self, workers: Executor) -> None:
        """Look at new tasks that are too many for the event loop, in a worker. One call at a time."""
        before, new, passes = self._tasks.last, self._tasks.take(_MAX_TASKS), self._passes
        if new is None:
            self._tasks.last = before
            return
        self._is_blind = True
        look = partial(look_at_tasks, self._absent, new, _MAX_DESCRIPTORS, own_pid=self._own_pid, proc=self._proc)
        seen = await asyncio.get_running_loop().run_in_executor(workers, look)
        if passes != self._passes:  # A pass has ended meanwhile, which has looked at them, or they count as new again.
            return
        if seen is None:
            self._tasks.last = before
        else:
            self._merge(seen)

    def begin(self) -> int:
        """A pass begins: return its mark for ``note``."""
        return self._tasks.read()

    def note(self, mark: int, cleared: Iterable[Execution]) -> None:
        """A complete pass has ended: remember whom it has cleared; every task that came since its begin is new."""
        now = time.monotonic()
        for execution in cleared:
            self._cleared[execution] = now
            self._cleared.move_to_end(execution)
        # Each keeps two descriptors of a process that has mostly ended: none is kept for longer than it counts.
        while self._cleared:
            execution, since = next(iter(self._cleared.items()))
            if now - since <= _LIFE_S and len(self._cleared) <= _MAX_CLEARED:
                break
            del self._cleared[execution]
        self._tasks.last = mark
        self._newly_held.clear()
        self._absent = ()
        self._is_blind = False
        self._passes += 1

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
        before, new = self._tasks.last, self._tasks.take(_MAX_NEW_TASKS)
        if new is not None:
            seen = look_at_tasks(self._absent, new, _MAX_NEW_DESCRIPTORS, own_pid=self._own_pid, proc=self._proc)
            if seen is not None:
                self._merge(seen)
                return
        self._tasks.last, self._is_blind = before, True

    def _merge(self, seen: Seen) -> None:
        for inode, pids in seen.held.items():
            self._newly_held.setdefault(inode, set()).update(pids)
        self._absent = seen.absent
        self._is_blind = len(self._newly_held) > _MAX_NEW_SOCKETS


def look_at_tasks(
    again: Sequence[int], new: Sequence[int], left: int, *, own_pid: int, proc: str = "/proc"
) -> Seen | None:
    """Look at what new processes hold; threads hold what their process does.

    Arguments:
        again: those that weren't there at the look before.
        left: descriptors to look at.

    Returns:
        None when there are more, or one can't be looked at.
    """
    held: dict[int, set[int]] = {}
    absent: list[int] = []
    for number, task in enumerate((*again, *new)):
        try:
            leader = read_leader(task, proc)
            if not leader and number >= len(again):
                absent.append(task)  # The kernel draws its number shortly before it shows it.
            if leader != task or task == own_pid:
                continue
            # Since Linux 6.2 the size of this directory is the number of descriptors; before that it is 0.
            if os.stat(f"{proc}/{task}/fd").st_size > left:
                return None
            table = read_table(task, str(task), left + 1, proc)
            left -= table.looked
            if table.rings:  # One may hold any socket: a pass looks into it.
                return None
            for inode, _ in table.sockets:
                held.setdefault(inode, set()).add(task)
        except FileNotFoundError:  # It has ended.
            continue
        except HiddenError:
            if not outranks(task, proc):
                return None
        except OSError:
            return None
        if left < 0:
            return None
    return Seen(held=held, absent=tuple(absent))
