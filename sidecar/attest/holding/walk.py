"""A walk over the live processes, one at a time, in the order of their numbers. Does I/O on ``/proc``.

The kernel gives out process IDs in ascending order until they wrap, and ``readdir`` of ``/proc`` returns the lowest
live one at or above its position, at that moment (fs/proc/base.c, ``proc_pid_readdir``). So a chain of processes, each
of which starts the next one and ends, can't step past a walk: what it starts has a higher number. Whoever looks at each
process before asking for the next one has met a member of each chain at its end, or has seen one vanish.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator

_SYS_GETDENTS64 = {"x86_64": 217, "ppc64le": 202, "s390x": 220}.get(os.uname().machine, 61)
# struct linux_dirent64 (getdents(2)): inode, next position, length, type, name. So small that one entry fits.
_ENTRY_BYTES = 32
# To skip processes: many entries at once.
_SKIP_BYTES = 32_768
_Buffer = ctypes.c_char * _SKIP_BYTES  # Kept: a type that is made for each walk is garbage in a circle.
_HEADER = struct.Struct("=QqHB")
_libc = ctypes.CDLL(None, use_errno=True)


class Walk:
    """Walks over the live processes above a number, again and again.

    Arguments:
        above: 0 for all.
        proc: where ``proc(5)`` is mounted.

    Raises:
        OSError: our own resources are used up, or the kernel can't list processes.
    """

    def __init__(self, above: int, proc: str = "/proc") -> None:
        self._directory = os.open(proc, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._buffer = _Buffer()
        try:
            self._position = self._find_position(above) if above > 0 else 0
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the kept descriptor."""
        os.close(self._directory)

    def begin_anew(self) -> None:
        """Have the next walks be over all processes."""
        self._position = 0

    def __iter__(self) -> Iterator[int]:
        """Yield the process IDs, each as soon as it is read.

        Raises:
            OSError: the kernel can't list them.
        """
        os.lseek(self._directory, self._position, os.SEEK_SET)
        while (count := self._read(_ENTRY_BYTES)) != 0:
            if count < 0:  # An entry with a longer name, which no process has.
                os.lseek(self._directory, 1, os.SEEK_CUR)
                continue
            yield from (pid for pid, _ in self._parse(count))

    def _find_position(self, above: int) -> int:
        """Find where the walks begin: behind the last process that isn't above the number."""
        found = 0
        while (count := self._read(_SKIP_BYTES)) > 0:
            for pid, position in self._parse(count):
                if pid > above:
                    return found
                found = position
        return found

    def _read(self, size: int) -> int:
        """Read entries into the buffer; return their bytes, -1 when not even one fits.

        Raises:
            OSError: the kernel can't list them.
        """
        count = int(_libc.syscall(_SYS_GETDENTS64, self._directory, self._buffer, size))
        if count < 0 and (number := ctypes.get_errno()) != errno.EINVAL:
            raise OSError(number, os.strerror(number))
        return count

    def _parse(self, count: int) -> Iterator[tuple[int, int]]:
        """Yield each process ID that was read, and the position behind it."""
        entries, offset = ctypes.string_at(self._buffer, count), 0
        while offset < count:
            _, position, length, _ = _HEADER.unpack_from(entries, offset)
            name = entries[offset + _HEADER.size : offset + length].split(b"\0", 1)[0]
            offset += length
            if name.isdigit():
                yield int(name), position
