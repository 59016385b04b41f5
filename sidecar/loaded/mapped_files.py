"""What a process maps executable: ``/proc/<pid>/maps`` read and parsed, and each mapped file opened. Does I/O.

Source: ``proc(5)``; ``show_map_vma`` in fs/proc/task_mmu.c. The list is made while the process runs: code that unmaps
itself, or moves while the list is read, may be missing from it.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import Self

import msgspec

from shared.model.identity.loaded_code import MAX_PATH_CHARACTERS
from sidecar.attest.filesystem import open_in_root, shows_other_device
from sidecar.attest.mounts import is_foreign_mount
from sidecar.attest.process import FileKey

# About 10,000 mappings; a process may have 65,530 of them, and parsing takes 10 ms a megabyte.
MAX_MAPS_BYTES = 1 << 20
_READ_BYTES = 65_536
# The kernel's own pages, which no process can give this name: a file's path begins with a slash, and memory that a
# process names is shown as ``[anon:NAME]``.
_OF_THE_KERNEL = frozenset((b"[vdso]", b"[vsyscall]", b"[uprobes]", b"[vectors]", b"[sigpage]"))
_MEMORY = (b"/memfd:", b"/dev/zero (deleted)", b"/SYSV", b"/[aio]", b"/anon_hugepage")
_ESCAPED = re.compile(rb"\\([0-7]{3})")
_DELETED = b" (deleted)"
_OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


class MappedFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file that is mapped executable.

    Attributes:
        area: one of its mappings, as its name below ``/proc/<pid>/map_files``.
        device, inode: as ``maps`` shows them.
        path: as ``maps`` shows it, with newlines escaped; it ends with `` (deleted)`` when the file has no name.
    """

    area: str
    device: int
    inode: int
    path: bytes


class Mappings(msgspec.Struct, frozen=True, kw_only=True):
    """What is mapped executable.

    Attributes:
        files: each file once, in the order of their addresses.
        anonymous: there is executable memory that is no file, or a file's that is writable as well.
    """

    files: tuple[MappedFile, ...]
    anonymous: bool


def read_maps(directory: int) -> bytes:
    """Read a process's ``maps``.

    Arguments:
        directory: descriptor of ``/proc/<pid>``.

    Raises:
        OSError: it is gone, mayn't be inspected, or has more mappings than are read (EFBIG).
    """
    descriptor = os.open("maps", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        parts: list[bytes] = []
        length = 0
        while part := os.read(descriptor, _READ_BYTES):
            parts.append(part)
            length += len(part)
            if length > MAX_MAPS_BYTES:
                raise OSError(errno.EFBIG, "too many mappings")
        return b"".join(parts)
    finally:
        os.close(descriptor)


def parse_maps(text: bytes) -> Mappings:
    """Read the executable mappings from ``maps``."""
    files: dict[tuple[int, int], MappedFile] = {}
    anonymous = False
    for line in text.split(b"\n"):
        # ``7f01-7f02 r-xp 00000000 fd:01 77      /path``: a regular expression takes ten times as long.
        space = line.find(b" ")
        if line[space + 3 : space + 4] != b"x":
            continue
        area, rights, _, device, inode, *named = line.split(None, 5)
        path = named[0] if named else b""
        if inode == b"0":
            anonymous = anonymous or path not in _OF_THE_KERNEL
            continue
        if path.startswith(_MEMORY):
            anonymous = True
            continue
        anonymous = anonymous or rights[1:2] == b"w"
        major, _, minor = device.partition(b":")
        key = (os.makedev(int(major, 16), int(minor, 16)), int(inode))
        if key not in files:
            start, _, end = area.partition(b"-")
            name = f"{int(start, 16):x}-{int(end, 16):x}"
            files[key] = MappedFile(area=name, device=key[0], inode=key[1], path=path)
    return Mappings(files=tuple(files.values()), anonymous=anonymous)


class MappedFiles:
    """Opens what one process has mapped: by the mapping, or by its path in the process's root; a context manager.

    The link below ``map_files`` leads to the very file. Following it takes CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE in
    the first user namespace, which a sidecar in a pod doesn't have: there a file counts if it is the mapped one by
    device and inode or, on overlayfs and Btrfs, where the device that is shown for a mapping isn't the one of
    ``stat``, by inode.

    Arguments:
        directory: descriptor of ``/proc/<pid>``.
    """

    def __init__(self, directory: int) -> None:
        self._directory = directory
        self._follows = True
        self._root = -1
        self._foreign: dict[int, bool] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._root >= 0:
            os.close(self._root)

    def read_key(self, file: MappedFile) -> FileKey | None:
        """Read the key of a mapped file; None when only ``open`` can tell which file it is."""
        if not self._follows:
            return None
        try:
            return FileKey.of(os.stat(f"map_files/{file.area}", dir_fd=self._directory))
        except PermissionError:
            self._follows = False
        except OSError:
            pass  # The mapping has gone.
        return None

    def open(self, file: MappedFile) -> tuple[int, FileKey]:
        """Open a mapped file for reading.

        Returns:
            A descriptor that the caller closes, and the file's key.

        Raises:
            OSError: it can't be opened, is no regular file, or another file is there (ESTALE).
        """
        if self._follows:
            try:
                return self._check(os.open(f"map_files/{file.area}", _OPEN_FLAGS, dir_fd=self._directory), None)
            except PermissionError:
                self._follows = False
            except FileNotFoundError:
                pass  # The mapping has moved.
        if file.path.endswith(_DELETED):
            raise OSError(errno.ENOENT, "the file has been deleted")
        path = _ESCAPED.sub(lambda found: bytes((int(found[1], 8) & 0xFF,)), file.path)
        if self._root < 0:
            self._root = os.open("root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._directory)
        try:
            return self._check(open_in_root(self._root, path, _OPEN_FLAGS), file)
        except OSError:  # A process whose root isn't its mounts': the path is that from ours.
            return self._check(os.open(path, _OPEN_FLAGS), file)

    def _check(self, descriptor: int, wanted: MappedFile | None) -> tuple[int, FileKey]:
        """See that a file is a regular one, the wanted one, and in nobody else's hands.

        Raises:
            OSError: it isn't; the descriptor is closed then.
        """
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            if wanted is not None and (
                status.st_ino != wanted.inode or (status.st_dev != wanted.device and not shows_other_device(descriptor))
            ):
                raise OSError(errno.ESTALE, "another file is at the path of a mapped one")
            # Asked once for each file system: who can change what one of its files holds, can change all.
            is_foreign = self._foreign.get(status.st_dev)
            if is_foreign is None:
                is_foreign = self._foreign[status.st_dev] = is_foreign_mount(self._directory, descriptor)
            if is_foreign:
                raise OSError(errno.ESTALE, "the file is what another mount namespace makes it")
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor, FileKey.of(status)


def show_path(path: bytes) -> str:
    """Write a path of ``maps`` for people: in printable ASCII, at most 256 characters, its end if it is longer."""
    text = path.decode("utf-8", "backslashreplace")
    if not (text.isascii() and text.isprintable()):
        text = text.encode("unicode_escape").decode("ascii")
    return text if len(text) <= MAX_PATH_CHARACTERS else f"...{text[3 - MAX_PATH_CHARACTERS :]}"
