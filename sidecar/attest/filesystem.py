"""Two questions to the kernel that Python's standard library can't ask: ``fstatfs`` and ``openat2``. Does I/O."""

from __future__ import annotations

import ctypes
import os
import sys

_SYS_OPENAT2 = 437  # The same number on every architecture, linux/unistd.h.
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_IN_ROOT = 0x10
_MAX_STATFS_BYTES = 256
_Statfs = ctypes.c_char * _MAX_STATFS_BYTES  # Kept: a type that is made for each call is garbage in a circle.

# linux/magic.h. On tmpfs a page that was mapped by reading is written through the mapping without a new ctime (seen on
# Linux 6.18), and FUSE and network file systems say what their server likes: their times prove nothing.
_UNTIMED = frozenset(
    (
        0x01021994,  # tmpfs, also memfd
        0x858458F6,  # ramfs
        0x958458F6,  # hugetlbfs
        0x65735546,  # FUSE
        0x01021997,  # 9p
        0x6969,  # NFS
        0xFF534D42,  # CIFS
        0xFE534D42,  # SMB2
        0x00C36400,  # Ceph
    )
)
# Overlayfs shows the device of the layer, Btrfs that of the subvolume.
_LAYERED = frozenset((0x794C7630, 0x9123683E))
# Overlayfs and FUSE: what they show is elsewhere, and may change beneath them.
_MADE_OF_OTHERS = frozenset((0x794C7630, 0x65735546))

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fstatfs.argtypes = (ctypes.c_int, ctypes.c_void_p)
_libc.syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
_libc.syscall.restype = ctypes.c_long


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def has_reliable_times(descriptor: int) -> bool:
    """Tell whether every change of a file's content shows in its ctime: not on tmpfs, FUSE and network file systems."""
    kind = _read_kind(descriptor)
    return kind is not None and kind not in _UNTIMED


def shows_other_device(descriptor: int) -> bool:
    """Tell whether ``stat`` gives another device than ``/proc/<pid>/maps`` may: on overlayfs and Btrfs."""
    return _read_kind(descriptor) in _LAYERED


def is_made_of_others(descriptor: int) -> bool:
    """Tell whether a file's content is up to who mounted its file system: on overlayfs and FUSE; yes if unknown."""
    kind = _read_kind(descriptor)
    return kind is None or kind in _MADE_OF_OTHERS


def open_without_links(directory: int, path: bytes, flags: int) -> int:
    """Open a path below (or above) a directory, refusing every symbolic link on the way.

    Raises:
        OSError: ELOOP for a link; ENOSYS before Linux 5.6; else as ``openat2(2)``.
    """
    return _open(directory, path, flags, _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS)


def open_in_root(root: int, path: bytes, flags: int) -> int:
    """Open a path as a process with this root directory would: absolute links and ``..`` can't leave it.

    Raises:
        OSError: ENOSYS before Linux 5.6; else as ``openat2(2)``.
    """
    return _open(root, path, flags, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)


def _read_kind(descriptor: int) -> int | None:
    buffer = _Statfs()
    if _libc.fstatfs(descriptor, buffer) != 0:
        return None
    return int.from_bytes(buffer.raw[: ctypes.sizeof(ctypes.c_long)], sys.byteorder) & 0xFFFFFFFF


def _open(directory: int, path: bytes, flags: int, resolve: int) -> int:
    how = _OpenHow(flags=flags | os.O_CLOEXEC, mode=0, resolve=resolve)
    descriptor = int(_libc.syscall(_SYS_OPENAT2, directory, path, ctypes.byref(how), ctypes.sizeof(how)))
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fsdecode(path))
    return descriptor
