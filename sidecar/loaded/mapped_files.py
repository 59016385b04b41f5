"""What a process maps executable: ``/proc/<pid>/maps`` read and parsed, and each mapped file opened. Does I/O.

Source: ``proc(5)``; ``show_map_vma`` in fs/proc/task_mmu.c. The list is made while the process runs: code that unmaps
itself, or moves while the list is read, may be missing from it.
"""

from __future__ import annotations

import errno
import os
import re
import stat

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


def stat_mapped(directory: int, file: MappedFile) -> FileKey | None:
    """Read the key of a mapped file; None when only ``open_mapped`` can tell which file it is.

    The link below ``map_files`` leads to the very file. Following it takes CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE in
    the first user namespace, which a sidecar in a pod doesn't have.
    """
    try:
        return FileKey.of(os.stat(f"map_files/{file.area}", dir_fd=directory))
    except OSError:
        return None


def open_mapped(directory: int, file: MappedFile) -> int:
    """Open a mapped file for reading: by its mapping or, without the right to, by its path in the process's root.

    A file at that path counts only if it is the mapped one, by device and inode; on overlayfs and Btrfs, where the
    device that is shown for a mapping isn't the one of ``stat``, by inode.

    Returns:
        A descriptor that the caller closes.

    Raises:
        OSError: it can't be opened, or another file is there (ESTALE).
    """
    try:
        descriptor = os.open(f"map_files/{file.area}", _OPEN_FLAGS, dir_fd=directory)
    except OSError:
        descriptor = _open_by_path(directory, file)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        if is_foreign_mount(directory, descriptor):
            raise OSError(errno.ESTALE, "the file is what another mount namespace makes it")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def show_path(path: bytes) -> str:
    """Write a path of ``maps`` for people: in printable ASCII, at most 256 characters, its end if it is longer."""
    text = path.decode("utf-8", "backslashreplace")
    if not (text.isascii() and text.isprintable()):
        text = text.encode("unicode_escape").decode("ascii")
    return text if len(text) <= MAX_PATH_CHARACTERS else f"...{text[3 - MAX_PATH_CHARACTERS :]}"


def _open_by_path(directory: int, file: MappedFile) -> int:
    if file.path.endswith(_DELETED):
        raise OSError(errno.ENOENT, "the file has been deleted")
    path = _ESCAPED.sub(lambda found: bytes((int(found[1], 8) & 0xFF,)), file.path)
    root = os.open("root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        descriptor = open_in_root(root, path, _OPEN_FLAGS)
    finally:
        os.close(root)
    status = os.fstat(descriptor)
    is_same = status.st_ino == file.inode and (status.st_dev == file.device or shows_other_device(descriptor))
    if not is_same:
        os.close(descriptor)
        raise OSError(errno.ESTALE, "another file is at the path of a mapped one")
    return descriptor
