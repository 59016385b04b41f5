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
_HEADER = struct.Struct("=QqHB")
_libc = ctypes.CDLL(None, use_errno=True)


class Walk:
    """Walks over live processes, again and again; from the second walk on only over those above a number.

    Arguments:
        above: the first walk is over all processes, later ones over those above it.
        proc: where ``proc(5)`` is mounted.

    Raises:
        OSError: our own resources are used up.
    """

    def __init__(self, above: int, proc: str = "/proc") -> None:
        self._above = above
        self._position = 0
        self._directory = os.open(proc, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._buffer = ctypes.create_string_buffer(_ENTRY_BYTES)

    def close(self) -> None:
        """Close the kept descriptor."""
        os.close(self._directory)

    def begin_anew(self) -> None:
        """Have the next walk be over all processes again."""
        self._position = 0

    def __iter__(self) -> Iterator[int]:
        """Yield the process IDs, each as soon as it is read.

        Raises:
            OSError: the kernel can't list them.
        """
        os.lseek(self._directory, self._position, os.SEEK_SET)
        while True:
            count = _libc.syscall(_SYS_GETDENTS64, self._directory, self._buffer, _ENTRY_BYTES)
            if count == 0:
                return
            if count < 0:
                number = ctypes.get_errno()
                if number == errno.EINVAL:  # An entry with a longer name, which no process has.
                    os.lseek(self._directory, 1, os.SEEK_CUR)
                    continue
                raise OSError(number, os.strerror(number))
            entry = self._buffer.raw[:count]
            _, position, length, _ = _HEADER.unpack_from(entry)
            name = entry[_HEADER.size : length].split(b"\0", 1)[0]
            if not name.isdigit():
                continue
            if int(name) <= self._above:
                self._position = position
            yield int(name)
