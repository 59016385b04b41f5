"""A process's memory mappings, as ``/proc/<pid>/maps`` lists them: read whole, parsed. Does I/O on one descriptor only.

An open ``maps`` belongs to one memory, not to the process: after the next ``execve`` it reads as empty. Belongs here:
the mappings. Doesn't: what follows from them, and the files behind them.
"""

from __future__ import annotations

import os
import re

import msgspec

_CHUNK_BYTES = 65_536
# A process may have 65,530 mappings (``vm.max_map_count``), most of them without a path.
_MAX_BYTES = 16 << 20
_ESCAPED = re.compile(rb"\\([0-7]{3})")


class MappingsError(ValueError):
    """The list is longer than 16 MiB, or doesn't have the shape that ``proc(5)`` gives it."""


class Mapping(msgspec.Struct, frozen=True):
    """One executable mapping. Not keyword-only: a process has dozens.

    Attributes:
        start, end: addresses; the end is the first one behind it.
        offset: in the file, bytes.
        device, inode: of the file, as ``stat`` names them on most file systems (not on btrfs, nor on overlayfs before
            Linux 6.8); both 0 for anonymous memory.
        path: of the file, with `` (deleted)`` when it has lost its name; ``[vdso]`` and the like; empty for anonymous
            memory.
        is_writable: whether the process may write and execute it.
    """

    start: int
    end: int
    offset: int
    device: int
    inode: int
    path: bytes
    is_writable: bool


def read_mappings(descriptor: int) -> bytes:
    """Read an open ``maps`` from its start to its end; empty after an ``execve`` or the process's end.

    The kernel gives it page by page: a mapping that is made or moved while it is read may be missed.

    Raises:
        MappingsError: it is longer than 16 MiB.
        OSError: ESRCH: the process has ended.
    """
    parts: list[bytes] = []
    offset = 0
    while part := os.pread(descriptor, _CHUNK_BYTES, offset):
        parts.append(part)
        offset += len(part)
        if offset > _MAX_BYTES:
            raise MappingsError("too many memory mappings")
    return b"".join(parts)


def parse_executable_mappings(text: bytes) -> list[Mapping]:
    """Read the executable mappings out of the text of ``maps``, in the order of their addresses.

    Raises:
        MappingsError: a line has another shape.
    """
    return [_parse(line) for line in text.split(b"\n") if line[: line.find(b" ") + 5].endswith((b"xp", b"xs"))]


def _parse(line: bytes) -> Mapping:
    try:
        addresses, rights, offset, device, inode, *path = line.split(None, 5)
        start, _, end = addresses.partition(b"-")
        major, _, minor = device.partition(b":")
        return Mapping(
            int(start, 16),
            int(end, 16),
            int(offset, 16),
            os.makedev(int(major, 16), int(minor, 16)),
            int(inode),
            _ESCAPED.sub(lambda found: bytes((int(found[1], 8) & 0xFF,)), path[0]) if path else b"",
            rights[1:2] == b"w",
        )
    except ValueError as error:
        raise MappingsError("unreadable memory mappings") from error
