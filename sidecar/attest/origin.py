"""Where a process comes from: its container's first process, or a session that was started in the container later.

Does I/O on ``/proc``, off the event loop. In a pod with a shared process namespace both are roots of process trees,
whose parents are outside it; the oldest root of a mount namespace is its container's first process. Evidence, no
identity: a process whose parents have ended belongs to no tree any more, and one with CAP_SYS_ADMIN makes a mount
namespace of its own.
"""

from __future__ import annotations

import os
from collections import OrderedDict

from shared.model.policy.decision import Origin
from sidecar.attest.process import Process
from sidecar.attest.process_text import ProcessTextError, parse_parent, parse_stat

_MAX_ANCESTORS = 64
_MAX_ROOTS = 256
_MAX_BYTES = 8_192


class Origins:
    """Tells where processes come from; roots that were looked at are remembered. Threads may share it.

    Arguments:
        proc: where ``proc(5)`` is mounted.
    """

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc
        self._roots: OrderedDict[tuple[int, int], Origin] = OrderedDict()

    def read(self, process: Process) -> Origin:
        """Tell where a process comes from, as far as its ancestors live."""
        try:
            root = self._find_root(process.pid)
            if root == 1:
                # Orphans are its children as well.
                return Origin.CONTAINER if process.pid == 1 else Origin.UNKNOWN
            key = root, self._read_start(root)
            if (known := self._roots.get(key)) is None:
                known = self._roots[key] = self._judge_root(*key)
                while len(self._roots) > _MAX_ROOTS:
                    self._roots.popitem(last=False)
            return known
        except (OSError, ProcessTextError, KeyError):  # It, or one of its ancestors, has ended.
            return Origin.UNKNOWN

    def _find_root(self, pid: int) -> int:
        for _ in range(_MAX_ANCESTORS):
            parent = parse_parent(self._read(pid, "status"))
            if not parent:
                return pid
            pid = parent
        return 1

    def _judge_root(self, root: int, start: int) -> Origin:
        namespace = self._read_namespace(root)
        for name in os.listdir(self._proc):
            if not name.isdigit() or (pid := int(name)) == root:
                continue
            try:
                if parse_parent(self._read(pid, "status")) or self._read_namespace(pid) != namespace:
                    continue
                if (self._read_start(pid), pid) < (start, root):
                    return Origin.EXEC
            except (FileNotFoundError, ProcessLookupError):
                continue
        return Origin.CONTAINER

    def _read_namespace(self, pid: int) -> tuple[int, int]:
        status = os.stat(f"{self._proc}/{pid}/ns/mnt")
        return status.st_dev, status.st_ino

    def _read_start(self, pid: int) -> int:
        return parse_stat(self._read(pid, "stat")).start_time

    def _read(self, pid: int, name: str) -> bytes:
        descriptor = os.open(f"{self._proc}/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(descriptor, _MAX_BYTES)
        finally:
            os.close(descriptor)
