"""What files below ``/proc/<pid>`` say, parsed. Pure; the formats are those of ``proc(5)``."""

from __future__ import annotations

import msgspec

_TRACER = b"\nTracerPid:\t"
_UID = b"\nUid:\t"
_PARENT = b"\nPPid:\t"
_MOUNT = b"\nmnt_id:\t"
_FLAGS = b"\nflags:\t"
_INODE = b"\nino:\t"
_SCM_FDS = b"scm_fds:"
_USER_FILES = b"\nUserFiles:\t"


class ProcessTextError(ValueError):
    """A file of ``/proc`` doesn't have the shape that ``proc(5)`` gives it."""


class Image(msgspec.Struct, frozen=True):
    """What ``stat`` says of a process and of its memory.

    Attributes:
        start_time: clock ticks after boot; ``execve`` keeps it, a reused PID doesn't.
        code, stack, arguments: addresses where the code, the stack and the argument strings start; drawn at ``execve``,
            kept by ``fork``. A process can move them (PR_SET_MM), so they prove nothing.
    """

    start_time: int
    code: int
    stack: int
    arguments: int


def parse_stat(text: bytes) -> Image:
    """Read ``/proc/<pid>/stat``: fields 22, 26, 28 and 48. The command name may contain spaces and parentheses.

    Raises:
        ProcessTextError: too few fields, or no numbers.
    """
    fields = text[text.rfind(b")") + 2 :].split()
    try:
        return Image(int(fields[19]), int(fields[23]), int(fields[25]), int(fields[45]))
    except (IndexError, ValueError) as error:
        raise ProcessTextError("unreadable process stat") from error


def parse_tracer(text: bytes) -> int:
    """Read ``TracerPid`` from ``/proc/<pid>/status``: 0 when it isn't traced.

    Raises:
        ProcessTextError: there is no such line.
    """
    return _parse_number(text, _TRACER)


def parse_uid(text: bytes) -> int:
    """Read the real user ID from ``/proc/<pid>/status``.

    Raises:
        ProcessTextError: there is no such line.
    """
    return _parse_number(text, _UID)


def parse_parent(text: bytes) -> int:
    """Read ``PPid`` from ``/proc/<pid>/status``: 0 when it has none in this PID namespace.

    Raises:
        ProcessTextError: there is no such line.
    """
    return _parse_number(text, _PARENT)


def parse_mount_id(text: bytes) -> int:
    """Read ``mnt_id`` from a descriptor's fdinfo.

    Raises:
        ProcessTextError: there is no such line.
    """
    return _parse_number(text, _MOUNT)


def parse_flags(text: bytes) -> int:
    """Read a descriptor's ``flags`` from its fdinfo, among them O_CLOEXEC (fs/proc/fd.c, ``seq_show``).

    Raises:
        ProcessTextError: there is no such line, as where the descriptor has been closed.
    """
    return _parse_number(text, _FLAGS, 8)


def parse_mounts(text: bytes) -> frozenset[int]:
    """Read the mount IDs from ``/proc/<pid>/mountinfo``.

    Raises:
        ProcessTextError: a line doesn't begin with a number.
    """
    try:
        return frozenset(int(line.split(b" ", 1)[0]) for line in text.split(b"\n") if line)
    except ValueError as error:
        raise ProcessTextError("unreadable mounts") from error


def parse_in_flight(text: bytes) -> int:
    """Read ``scm_fds`` from a descriptor's fdinfo: how many descriptors wait in a Unix socket; 0 for anything else."""
    start = text.find(_SCM_FDS)
    if start < 0:
        return 0
    value = text[start + len(_SCM_FDS) :].split(None, 1)
    return int(value[0]) if value and value[0].isdigit() else 0


def parse_inode(text: bytes) -> int:
    """Read ``ino`` from a descriptor's fdinfo: of the file that the other lines are about; 0 before Linux 5.14."""
    return _parse_number(text, _INODE) if _INODE in text else 0


def parse_registered_files(text: bytes, *, is_all_or_nothing: bool) -> tuple[list[str], bool] | None:
    """Read an io_uring instance's registered files from its fdinfo.

    The kernel writes a path for each, ``socket:[<inode>]`` for a socket; before Linux 5.12 a mere name.
    Source: io_uring/fdinfo.c.

    Arguments:
        is_all_or_nothing: while a system call holds the instance's lock, this kernel says nothing of files (since
            Linux 6.16); before that it says how many places there are, and lists none of them.

    Returns:
        The files' links, and whether each of them could be read. None when the text doesn't tell: the descriptor isn't
        an io_uring instance any more, or a system call held the instance's lock.
    """
    start = text.find(_USER_FILES)
    if start < 0:
        return None
    files = []
    count, *lines = text[start + len(_USER_FILES) :].split(b"\n")  # The count includes empty places.
    for line in lines:
        number, separator, name = line.partition(b": ")
        if not separator or not number.strip().isdigit():
            break
        files.append(name.decode("utf-8", "replace"))
    if not files and not is_all_or_nothing and count.strip() != b"0":
        return None
    return files, all("/" in name or "[" in name or name == "<none>" for name in files)


def parse_arguments(text: bytes) -> list[bytes]:
    """Split ``/proc/<pid>/cmdline``; a process that rewrote its arguments may leave anything there."""
    return text.removesuffix(b"\0").split(b"\0") if text else []


def _parse_number(text: bytes, label: bytes, base: int = 10) -> int:
    start = text.find(label)
    value = text[start + len(label) : start + len(label) + 20].split(None, 1) if start >= 0 else []
    if not value or not value[0].isdigit():
        raise ProcessTextError(f"no {label.decode().strip()} in the process status")
    return int(value[0], base)
