"""The processes measured last, held so that the next connection of the same ``execve`` costs microseconds.

Belongs to the event loop's thread. Bounded: the least recently used process is closed first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from itertools import islice

from sidecar.attest.measure import Measured

_MAX_KINDS = 4_096
_MAX_TRIES = 4
_MAX_GLANCES = 32
# Where all of them live, whether one has ended isn't asked again at each new process: each costs a system call.
_ALL_LIVE_S = 0.5


class KnownProcesses:
    """Measured processes by process ID, and who held the last socket of each kind.

    Arguments:
        max_processes: how many are held; each costs five descriptors.
    """

    def __init__(self, *, max_processes: int) -> None:
        self._max_processes = max_processes
        self._by_pid: OrderedDict[int, Measured] = OrderedDict()
        self._since: dict[int, float] = {}
        self._last: OrderedDict[Hashable, tuple[int, str]] = OrderedDict()
        self._all_live_until = float("-inf")

    def __len__(self) -> int:
        return len(self._by_pid)

    def add(self, measured: Measured, *, now: float = 0.0) -> None:
        """Hold a process; one that was measured earlier under the same number, and ended ones, are closed.

        Arguments:
            now: the loop's time, for ``is_older``.
        """
        pid = measured.process.pid
        self.drop(pid)
        if len(self._by_pid) >= self._max_processes and now >= self._all_live_until:
            gone = [number for number, kept in self._by_pid.items() if kept.process.has_ended()]
            for ended in gone:
                self.drop(ended)
            if not gone:
                self._all_live_until = now + _ALL_LIVE_S
        while len(self._by_pid) >= self._max_processes:
            self.drop(next(iter(self._by_pid)))
        self._by_pid[pid] = measured
        self._since[pid] = now

    def get(self, pid: int) -> Measured | None:
        """Return the process measured last under this number, which may have ended since."""
        return self._by_pid.get(pid)

    def is_older(self, pid: int, began: float) -> bool:
        """Tell whether the process was measured before that time of the loop."""
        return pid in self._since and self._since[pid] <= began

    def drop(self, pid: int) -> None:
        """Close a process, if it is held."""
        if (kept := self._by_pid.pop(pid, None)) is not None:
            del self._since[pid]
            kept.process.close()

    def candidates(self, kind: Hashable, uid: int, *, is_brief: bool = True) -> Iterator[tuple[Measured, str]]:
        """Yield who is likely to hold a socket, with the descriptor to look at first: at most 33 processes.

        Arguments:
            is_brief: at most five.
            kind: of the socket; its last holder comes first.
            uid: its owner; processes of that user come next, the most recently used first.
        """
        pid, hint = self._last.get(kind, (0, ""))
        if (last := self._by_pid.get(pid)) is not None:
            yield last, hint
        users = (kept for kept in reversed(self._by_pid.values()) if kept is not last and kept.process.facts.uid == uid)
        for kept in list(islice(users, _MAX_TRIES if is_brief else _MAX_GLANCES)):
            yield kept, ""

    def remember(self, kind: Hashable, pid: int, descriptor: str) -> None:
        """Note who held a socket of this kind, and under which descriptor."""
        if pid in self._by_pid:
            self._by_pid.move_to_end(pid)
        self._last[kind] = (pid, descriptor)
        self._last.move_to_end(kind)
        if len(self._last) > _MAX_KINDS:
            self._last.popitem(last=False)

    def close(self) -> None:
        """Close every process."""
        for kept in self._by_pid.values():
            kept.process.close()
        self._by_pid.clear()
        self._since.clear()
        self._last.clear()
