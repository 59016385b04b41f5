"""Where a process keeps sockets, and which tasks are new. Does I/O on ``/proc``.

Belongs here: single looks at descriptor tables, threads' tables, ``fdinfo`` and the last task ID. Doesn't: what the
looks add up to (``holders.py``, ``owner.py``, ``clearance.py``). Nothing here holds the interpreter's lock for long:
each step is a system call, and no list is sorted (the kernel lists descriptors in ascending order).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from sidecar.native.engine import current_look

PREFIX = "socket:["
RING = "anon_inode:[io_uring]"
MAX_RING_FDINFO_BYTES = 1 << 20
MAX_FDINFO_BYTES = 4_096
_STATUS_BYTES = 2_048
# By ``holds_any``, on the event loop; a process with more counts as holding it.
_MAX_LOOKED_AT = 4_096
_DENIED = frozenset((errno.EACCES, errno.EPERM))
# Whatever else goes wrong in a look at a process, it has ended or may not be inspected.
_OUT_OF_RESOURCES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM))
_PROTOCOL = "system.sockprotoname"
_SYS_KCMP = {"x86_64": 312, "aarch64": 272}.get(os.uname().machine, -1)
_KCMP_FILES = 2  # linux/kcmp.h
_libc = ctypes.CDLL(None, use_errno=True)


# As sidecar/native/look.c gives them: inode and descriptor.
_SOCKET = struct.Struct("=QI4x")
_MAX_SEARCHED = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What a descriptor table holds.

    Attributes:
        looked: how many descriptors were looked at.
        sockets: inode and descriptor of each, to be iterated once: a list of a million would hold the lock.
        rings: descriptors of io_uring instances.
    """

    looked: int
    sockets: Iterable[tuple[int, int]]
    rings: Sequence[int]


class HiddenError(Exception):
    """A process mayn't be looked at; ``pid`` is its number."""

    def __init__(self, pid: int) -> None:
        super().__init__(f"process {pid} may not be inspected")
        self.pid = pid


def inode_of(link: str) -> int:
    """Return the inode of a link that starts with ``PREFIX``."""
    return int(link[len(PREFIX) : -1])


def list_processes(proc: str = "/proc") -> list[int]:
    """List the process IDs in view."""
    return [int(name) for name in os.listdir(proc) if name.isdigit()]


def list_links(pid: int, place: str, proc: str = "/proc", *, newest_first: bool = False) -> Iterator[tuple[str, str]]:
    """Yield (descriptor, link); the place is ``<pid>`` or ``<pid>/task/<tid>``. A process that has ended has none.

    Raises:
        HiddenError: the process mayn't be inspected.
        OSError: our own resources are used up.
    """
    if (directory := _open_table(pid, place, proc)) is None:
        return
    try:
        names = os.listdir(directory)
        if newest_first:
            names.reverse()
        for name in names:
            try:
                yield name, os.readlink(name, dir_fd=directory)
            except FileNotFoundError:  # Closed since the directory was read.
                continue
    except OSError as error:  # The process has ended.
        _refuse_unseen(error, pid)
    finally:
        os.close(directory)


def read_table(pid: int, place: str, limit: int, proc: str = "/proc") -> Table:
    """Read which sockets a table holds; the place as for ``list_links``. Without the interpreter's lock where compiled.

    Arguments:
        limit: descriptors to look at.

    Raises:
        HiddenError, OSError: as ``list_links``.
    """
    if (look := current_look()) is None:
        return _read_table(pid, place, limit, proc)
    if (directory := _open_table(pid, place, proc)) is None:
        return Table(looked=0, sockets=(), rings=())
    try:
        code, looked, sockets, rings = look.scan(directory, max(limit, 0))
    finally:
        os.close(directory)
    if code:
        _refuse_unseen(OSError(code, os.strerror(code)), pid)
    return Table(looked=looked, sockets=_SOCKET.iter_unpack(sockets), rings=array("I", rings).tolist())


def find_in_table(pid: int, inodes: Collection[int], proc: str = "/proc") -> dict[int, int]:
    """Find sockets in a process's own table, the newest descriptors first; without the lock as well.

    Returns:
        By inode, the descriptor of each that was found.

    Raises:
        HiddenError, OSError: as ``list_links``.
    """
    place = str(pid)
    if (look := current_look()) is None:
        found: dict[int, int] = {}
        for name, link in list_links(pid, place, proc, newest_first=True):
            if link.startswith(PREFIX) and (inode := inode_of(link)) in inodes and inode not in found:
                found[inode] = int(name)
                if len(found) == len(inodes):
                    break
        return found
    if (directory := _open_table(pid, place, proc)) is None:
        return {}
    try:
        code, _, sockets = look.find(directory, array("Q", sorted(inodes)).tobytes(), _MAX_SEARCHED)
    finally:
        os.close(directory)
    if code:
        _refuse_unseen(OSError(code, os.strerror(code)), pid)
    return dict(_SOCKET.iter_unpack(sockets))


def _read_table(pid: int, place: str, limit: int, proc: str) -> Table:
    looked, sockets, rings = 0, list[tuple[int, int]](), list[int]()
    for name, link in list_links(pid, place, proc) if limit > 0 else ():
        looked += 1
        if link.startswith(PREFIX):
            sockets.append((inode_of(link), int(name)))
        elif link == RING:
            rings.append(int(name))
        if looked >= limit:
            break
    return Table(looked=looked, sockets=sockets, rings=rings)


def _open_table(pid: int, place: str, proc: str) -> int | None:
    """Open a descriptor table; None where the process has ended."""
    try:
        return os.open(f"{proc}/{place}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        _refuse_unseen(error, pid)
        return None


def count_descriptors(pid: int, proc: str = "/proc") -> int:
    """Count a process's descriptors without listing them; 0 where it has ended, and before Linux 6.2."""
    try:
        return os.stat(f"{proc}/{pid}/fd").st_size
    except OSError:
        return 0


def list_threads(pid: int, proc: str = "/proc") -> list[str]:
    """List a process's threads; none when it has ended.

    Raises:
        OSError: our own resources are used up.
    """
    try:
        return os.listdir(f"{proc}/{pid}/task")
    except OSError as error:
        refuse_shortage(error)
        return []


def list_tables(pid: int, proc: str = "/proc", *, threads: Sequence[str] = ()) -> Iterator[str]:
    """Yield the process, and each of its threads that doesn't share a descriptor table with those before it.

    Arguments:
        threads: by ``list_threads``; empty: they are listed.

    Raises:
        OSError: our own resources are used up.
    """
    yield str(pid)
    tables = [pid]
    for thread in map(int, threads or list_threads(pid, proc)):
        if thread != pid and _add_table(tables, thread):
            yield f"{pid}/task/{thread}"


def holds_any(pid: int, inodes: Iterable[int], proc: str = "/proc") -> bool:
    """Tell whether a process has one of these sockets in a table of its own; true where that can't be told."""
    wanted, left = frozenset(inodes), _MAX_LOOKED_AT + 1
    try:
        for place in list_tables(pid, proc):
            table = read_table(pid, place, left, proc)
            left -= table.looked
            if left <= 0 or any(inode in wanted for inode, _ in table.sockets):
                return True
    except (HiddenError, OSError):
        return True
    return False


def _add_table(tables: list[int], thread: int) -> bool:
    """Add a thread whose descriptor table none of the others uses, in the order of ``kcmp(2)``; tell whether it was.

    Where the kernel can't compare, it counts as a table of its own.
    """
    low, high = 0, len(tables)
    while low < high:
        middle = (low + high) // 2
        order = _libc.syscall(_SYS_KCMP, thread, tables[middle], _KCMP_FILES, 0, 0)
        if order == 0:
            return False
        if order == 1:
            high = middle
        else:
            low = middle + 1
    tables.insert(low, thread)
    return True


def read_protocol(place: str, descriptor: str, inode: int, proc: str = "/proc") -> str | None:
    """Read a socket's protocol, such as ``TCPv6`` or ``UNIX-STREAM``: net/socket.c, ``sockfs_xattr_get``.

    The file is kept open (O_PATH) meanwhile: its process may put another one at the descriptor at any time.

    Returns:
        None where the descriptor isn't this socket any more; empty where the kernel doesn't tell.
    """
    try:
        kept = os.open(f"{proc}/{place}/fd/{descriptor}", os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        refuse_shortage(error)
        return None
    try:
        if os.readlink(f"{proc}/self/fd/{kept}") != f"{PREFIX}{inode}]":
            return None
        return os.getxattr(f"{proc}/self/fd/{kept}", _PROTOCOL).rstrip(b"\0").decode("ascii", "replace")
    except OSError as error:
        refuse_shortage(error)
        return ""
    finally:
        os.close(kept)


def is_socket(place: str, descriptor: str, inode: int, proc: str = "/proc") -> bool:
    """Tell whether a descriptor is this socket now."""
    try:
        return os.readlink(f"{proc}/{place}/fd/{descriptor}") == f"{PREFIX}{inode}]"
    except OSError as error:
        refuse_shortage(error)
        return False


def read_fdinfo(place: str, name: str, max_bytes: int, proc: str = "/proc") -> bytes:
    """Read a descriptor's fdinfo, at most so many bytes; empty when the descriptor has been closed.

    Raises:
        OSError: our own resources are used up.
    """
    text = b""
    try:
        descriptor = os.open(f"{proc}/{place}/fdinfo/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            while len(text) < max_bytes and (part := os.read(descriptor, max_bytes - len(text))):
                text += part
        finally:
            os.close(descriptor)
    except OSError as error:
        refuse_shortage(error)
    return text


def read_users(pid: int, proc: str = "/proc") -> frozenset[int]:
    """Read a process's real, effective, saved and file system user IDs; empty when it has ended.

    ``status`` is readable for everybody, and says them of a process that mayn't be inspected as well.
    """
    for line in _read_status(pid, proc).split(b"\n"):
        if line.startswith(b"Uid:"):
            return frozenset(int(each) for each in line[4:].split() if each.isdigit())
    return frozenset()


def is_running(pid: int, proc: str = "/proc") -> bool:
    """Tell whether a process lives and has a main thread: one without has no descriptor table, but its threads may."""
    return b"\nState:\t" in (status := _read_status(pid, proc)) and not any(
        f"\nState:\t{state}".encode() in status for state in "ZX"
    )


def outranks(pid: int, proc: str = "/proc") -> bool:
    """Tell whether a process in our own user namespace has capabilities that we lack.

    It can't be inspected for that reason alone, and it is above whatever runs here: nothing unprivileged gets there.
    A process in a user namespace of its own seems to have all capabilities, and is told by its mapping of user IDs.
    """
    theirs, ours = _read_capabilities(str(pid), proc), _read_capabilities("self", proc)
    return bool(theirs & ~ours) and _read(f"{proc}/{pid}/uid_map") == _read(f"{proc}/self/uid_map")


def read_leader(task: int, proc: str = "/proc") -> int:
    """Read which process a task belongs to; 0 when it has ended."""
    for line in _read_status(task, proc).split(b"\n"):
        if line.startswith(b"Tgid:"):
            return int(line[5:])
    return 0


class NewTasks:
    """Which tasks have come since the last question, by the number that the kernel gave out last.

    The kernel counts task IDs up in each PID namespace and starts anew after ``pid_max``; IDs of namespaces below are
    counted as well. ``/proc/loadavg`` ends with the last one (fs/proc/loadavg.c). Not seen: a task whose ID was
    chosen with CAP_CHECKPOINT_RESTORE over this namespace.

    Arguments:
        proc: where ``proc(5)`` is mounted.
    """

    def __init__(self, proc: str = "/proc") -> None:
        self._loadavg = os.open(f"{proc}/loadavg", os.O_RDONLY | os.O_CLOEXEC)
        try:
            with open(f"{proc}/sys/kernel/pid_max", "rb") as file:
                self._max = int(file.read())
            self.last = self.read()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the kept descriptor."""
        os.close(self._loadavg)

    def has_news(self) -> bool:
        """Tell whether a task has come since ``take`` was last called: one system call."""
        return self.read() != self.last

    def take(self, limit: int) -> range | tuple[int, ...] | None:
        """Return the IDs given out since the last call, whether they live or not; None when they are more."""
        last, self.last = self.last, self.read()
        if self.last >= last:
            found: range | tuple[int, ...] = range(last + 1, self.last + 1)
        else:
            if self._max - last + self.last > limit:
                return None
            found = (*range(last + 1, self._max + 1), *range(1, self.last + 1))
        return found if len(found) <= limit else None

    def read(self) -> int:
        """Return the ID given out last."""
        return int(os.pread(self._loadavg, 128, 0).rsplit(None, 1)[-1])


def refuse_shortage(error: OSError) -> None:
    """Raise the error again where it is about our own resources, and not about the process that is looked at."""
    if error.errno in _OUT_OF_RESOURCES:
        raise error


def _refuse_unseen(error: OSError, pid: int) -> None:
    refuse_shortage(error)
    if error.errno in _DENIED:
        raise HiddenError(pid) from error


def _read_status(task: int | str, proc: str) -> bytes:
    return _read(f"{proc}/{task}/status")


def _read_capabilities(task: str, proc: str) -> int:
    for line in _read_status(task, proc).split(b"\n"):
        if line.startswith(b"CapPrm:"):
            return int(line[7:], 16)
    return 0


def _read(path: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(descriptor, _STATUS_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        refuse_shortage(error)
        return b""
