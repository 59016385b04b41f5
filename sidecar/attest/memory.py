"""One memory of one process: what it got at one ``execve`` and loses at the next. Does I/O on ``/proc`` only.

Belongs here: the descriptors that tell whether a process still has that memory. Doesn't: what the process is otherwise
(``process.py``).
"""

from __future__ import annotations

import errno
import os
import re

import msgspec

_CHUNK_BYTES = 65_536
# A line is far shorter than a page but for its path.
_MAX_BYTES = 16 << 20
_LINE = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) ..(.). [0-9a-f]+ ([0-9a-f]+):([0-9a-f]+) ([0-9]+) *(.*)")
_ESCAPED = re.compile(rb"\\([0-7]{3})")
_GONE = frozenset((errno.ENOENT, errno.ESRCH))


class Mapping(msgspec.Struct, frozen=True, kw_only=True):
    """One mapping.

    Attributes:
        device, inode: of the file, as ``stat`` names them on most file systems (not on Btrfs, nor on overlayfs before
            Linux 6.8); both 0 for anonymous memory.
        path: of the file, with `` (deleted)`` when it has lost its name; empty for anonymous memory.
        is_executable: whether the process may execute it.
    """

    device: int
    inode: int
    path: bytes
    is_executable: bool


class Memory:
    """A process's ``/proc`` directory, and its ``maps``, which the kernel binds to the memory that it had when opened.

    Nothing that the process can set plays a part: start addresses and arguments may be moved (PR_SET_MM), or be the
    same again after the next ``execve`` where addresses aren't randomised; a memory isn't had again.

    Its owner keeps both descriptors; they are closed with the last reference.

    Arguments:
        pid: in this PID namespace.
        proc: where ``proc(5)`` is mounted.

    Attributes:
        directory: ``/proc/<pid>``, path only.
        maps: its ``maps``.

    Raises:
        OSError: the process is gone, or mayn't be looked at.
    """

    __slots__ = ("directory", "maps")

    def __init__(self, pid: int, *, proc: str = "/proc") -> None:
        self.maps = self.directory = -1
        self.directory = os.open(f"{proc}/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.maps = os.open("maps", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.directory)

    def __del__(self) -> None:
        for descriptor in (self.directory, self.maps):
            if descriptor >= 0:
                os.close(descriptor)

    def is_in_use(self) -> bool:
        """Tell whether the process still has this memory: it hasn't executed anything since, nor ended.

        Another process may share it (``vfork``); while that one lives, an ``execve`` of this one isn't seen here, but
        in ``has_executable``, unless it is of the same file.

        Raises:
            ProcessLookupError: it has ended.
        """
        return bool(os.pread(self.maps, 1, 0))

    def has_executable(self, device: int, inode: int) -> bool:
        """Tell whether this memory is in use and ``/proc/<pid>/exe`` is that file.

        Raises:
            ProcessLookupError: the process has ended.
            OSError: it mayn't be looked at.
        """
        try:
            is_in_use = self.is_in_use()
            status = os.stat("exe", dir_fd=self.directory)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            # A main thread that has exited before the others has no executable to show.
            if error.errno == errno.ENOENT and self.is_in_use():
                return True
            raise ProcessLookupError(errno.ESRCH, "the process has ended") from error
        return is_in_use and (status.st_dev, status.st_ino) == (device, inode)

    def find_mapping(self, address: int) -> Mapping | None:
        """Find what is mapped at an address.

        Raises:
            OSError: the process has ended.
        """
        return _find_mapping(self.maps, address)


def _find_mapping(descriptor: int, address: int) -> Mapping | None:
    """Find what is mapped at an address, in an open ``maps`` from which nothing else is read at the same time.

    Returns:
        None when nothing is, or when the list is longer than 16 MiB up to there; also after an ``execve``.

    Raises:
        OSError: ESRCH: the process has ended.
    """
    rest, offset = b"", 0
    while offset < _MAX_BYTES and (part := os.pread(descriptor, _CHUNK_BYTES, offset)):
        offset += len(part)
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            found = _LINE.fullmatch(line)
            if found is None or address < int(found[1], 16):  # They come in the order of their addresses.
                return None
            if address < int(found[2], 16):
                return _make(found)
    return None


def _make(found: re.Match[bytes]) -> Mapping:
    return Mapping(
        device=os.makedev(int(found[4], 16), int(found[5], 16)),
        inode=int(found[6]),
        path=_ESCAPED.sub(lambda escaped: bytes((int(escaped[1], 8) & 0xFF,)), found[7]),
        is_executable=found[3] == b"x",
    )
