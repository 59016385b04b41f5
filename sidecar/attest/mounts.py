"""Whether a file that a process executes is from a mount of its own mount namespace. Does I/O on ``/proc`` only.

Anyone may make a user namespace, and mount overlayfs or FUSE there: what such a file holds is up to who mounted it,
from one read to the next. A process outside can execute it through ``/proc/<pid>/root`` of one inside.
"""

from __future__ import annotations

import os

from sidecar.attest.filesystem import is_made_of_others
from sidecar.attest.process_text import ProcessTextError, parse_mount_id, parse_mounts, parse_parent

_MAX_MOUNTINFO_BYTES = 4 << 20
_CHUNK_BYTES = 65_536
_MAX_ANCESTORS = 16


def is_foreign_mount(process: int, file: int, proc: str = "/proc") -> bool:
    """Tell whether a file's content is in the hands of another mount namespace than a process's.

    A process in another root directory sees only the mounts below it; an ancestor in the same mount namespace tells
    then. Where none can, the answer is yes. Only overlayfs and FUSE are asked about: other file systems that a user may
    mount keep what was written.

    Arguments:
        process: descriptor of its ``/proc/<pid>`` directory.
        file: descriptor of the file.

    Raises:
        OSError: the process is gone, or mayn't be looked at.
    """
    if not is_made_of_others(file):
        return False
    try:
        wanted = parse_mount_id(_read(f"{proc}/self/fdinfo/{file}", None))
        if wanted in parse_mounts(_read("mountinfo", process)):
            return False
        namespace = os.stat("ns/mnt", dir_fd=process)
        parent = parse_parent(_read("status", process))
    except ProcessTextError:
        return True
    return not _is_ancestors(wanted, (namespace.st_dev, namespace.st_ino), parent, proc)


def _is_ancestors(wanted: int, namespace: tuple[int, int], parent: int, proc: str) -> bool:
    """Tell whether an ancestor in this mount namespace sees the mount."""
    try:
        for _ in range(_MAX_ANCESTORS):
            if not parent:
                break
            other = os.stat(f"{proc}/{parent}/ns/mnt")
            is_same = (other.st_dev, other.st_ino) == namespace
            if is_same and wanted in parse_mounts(_read(f"{proc}/{parent}/mountinfo", None)):
                return True
            parent = parse_parent(_read(f"{proc}/{parent}/status", None))
    except (OSError, ProcessTextError):  # It has ended, or mayn't be inspected.
        pass
    return False


def _read(path: str, directory: int | None) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        parts: list[bytes] = []
        left = _MAX_MOUNTINFO_BYTES
        while left > 0 and (part := os.read(descriptor, _CHUNK_BYTES)):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)
