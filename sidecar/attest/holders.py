"""Which processes hold a socket: one of them quickly, or all of them. Does I/O on ``/proc``, off the event loop.

The quick search looks at a process's own descriptor table: a socket that is only elsewhere has no owner, which is
refused. The whole pass looks wherever a process can keep a socket: in its table, in the tables that threads keep for
themselves (``unshare(CLONE_FILES)``, or a main thread that has exited), and in the registered files of its io_uring
instances. Not seen: an instance that is itself only registered (``IORING_REGISTER_RING_FDS``) with its descriptor
closed, for which ``/proc`` has no file.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from shared.model.policy.reasons import Reason
from sidecar.attest.facts import AttestationError
from sidecar.attest.process import Process
from sidecar.attest.process_text import parse_in_flight, parse_registered_files

MAX_PROCESSES = 32_768
MAX_DESCRIPTORS = 1_048_576
_MAX_FDINFO_BYTES = 4_096
_MAX_RING_FDINFO_BYTES = 1 << 20
_PREFIX = "socket:["
_RING = "anon_inode:[io_uring]"
# Whatever else goes wrong in a look at a process, it has ended or may not be inspected.
_OUT_OF_RESOURCES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM))
_SYS_KCMP = {"x86_64": 312, "aarch64": 272}.get(os.uname().machine, -1)
_KCMP_FILES = 2  # linux/kcmp.h
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """Who holds the wanted sockets, and who has descriptors in flight, at one pass over all processes.

    Attributes:
        holders: by inode, the process IDs whose descriptor tables show it.
        in_flight: inodes of Unix sockets in which descriptors wait to be received.
        is_complete: false when a bound was reached before the last process.
    """

    holders: dict[int, set[int]] = field(default_factory=dict)
    in_flight: frozenset[int] = frozenset()
    is_complete: bool = True


def find_holder(inode: int, uid: int, *, own_pid: int, proc: str = "/proc") -> Process:
    """Find one process that holds a socket: those of its user first, then all, the youngest number first.

    Arguments:
        inode: of the socket.
        uid: that owns the socket: a hint about where to look first, no more.
        own_pid: the sidecar, which is left out.

    Raises:
        AttestationError: no visible process holds it (``no_owner``), or the holder vanished.
    """
    wanted = f"{_PREFIX}{inode}]"
    vanished: AttestationError | None = None
    for pid in _order_by_user(uid, own_pid, proc):
        try:
            if not _holds(pid, wanted, proc):
                continue
        except OSError as error:
            raise AttestationError("no descriptors left", reason=Reason.OVERLOADED) from error
        try:
            return Process(pid, proc=proc)
        except AttestationError as error:
            if error.reason is not Reason.PROCESS_VANISHED:
                raise
            vanished = error  # A fork of it may hold the socket as well.
    if vanished is not None:
        raise vanished
    raise AttestationError(f"no visible process holds socket {inode}", reason=Reason.NO_OWNER)


def find_own(proc: str = "/proc") -> set[int]:
    """List the inodes of this process's own sockets."""
    return {int(link[len(_PREFIX) : -1]) for _, link in _links("self", proc) if link.startswith(_PREFIX)}


def find_holdings(wanted: Collection[int], *, own_pid: int, proc: str = "/proc") -> Holdings:
    """Look through the descriptors of every process for these sockets and for descriptors in flight.

    At most 32,768 processes and 1,048,576 descriptors; a process that may not be inspected counts as holding nothing.
    """
    search = _Search(wanted, proc)
    pids = list_processes(proc)
    for pid in pids[:MAX_PROCESSES]:
        if pid != own_pid:
            search.look_at(pid)
        if search.left <= 0:
            break
    is_complete = search.is_complete and search.left > 0 and len(pids) <= MAX_PROCESSES
    return Holdings(holders=search.holders, in_flight=frozenset(search.in_flight), is_complete=is_complete)


class _Search:
    """One pass over processes: what was found, and how much may still be looked at."""

    def __init__(self, wanted: Collection[int], proc: str) -> None:
        self.holders: dict[int, set[int]] = {inode: set() for inode in wanted}
        self.in_flight: set[int] = set()
        self.left = MAX_DESCRIPTORS
        self.is_complete = True
        self._names = {f"{_PREFIX}{inode}]": inode for inode in wanted}
        self._proc = proc

    def look_at(self, pid: int) -> None:
        """Look at every place where this process can hold a socket."""
        try:
            self._look_at(pid)
        except OSError:  # Our own resources are used up: it may hold anything.
            self.is_complete = False

    def _look_at(self, pid: int) -> None:
        for place in self._list_places(pid):
            for name, link in _links(place, self._proc):
                self.left -= 1
                if self.left <= 0:
                    return
                if link.startswith(_PREFIX):
                    if (inode := self._names.get(link)) is not None:
                        self.holders[inode].add(pid)
                    elif _count_in_flight(place, name, self._proc):
                        self.in_flight.add(int(link[len(_PREFIX) : -1]))
                elif link == _RING:
                    self._look_into_ring(pid, place, name)

    def _list_places(self, pid: int) -> Iterator[str]:
        """Yield the process, and each of its threads that doesn't share a descriptor table with those before it."""
        yield str(pid)
        try:
            threads = os.listdir(f"{self._proc}/{pid}/task")
        except OSError as error:
            _refuse_shortage(error)
            return  # It has ended.
        tables = [pid]
        for thread in map(int, threads):
            self.left -= 1
            if thread != pid and _add_table(tables, thread):
                yield f"{pid}/task/{thread}"

    def _look_into_ring(self, pid: int, place: str, name: str) -> None:
        text = _read_fdinfo(place, name, self._proc, _MAX_RING_FDINFO_BYTES)
        files, is_whole = parse_registered_files(text)
        self.left -= len(files)
        self.is_complete &= is_whole and len(text) < _MAX_RING_FDINFO_BYTES
        for file in files:
            if (inode := self._names.get(file)) is not None:
                self.holders[inode].add(pid)


def is_holder(pid: int, inode: int, proc: str = "/proc") -> bool:
    """Tell whether a process holds a socket anywhere: in its table, a thread's own, or an io_uring instance.

    One that can't be looked at completely counts as a holder.
    """
    search = _Search([inode], proc)
    search.look_at(pid)
    return bool(search.holders[inode]) or not search.is_complete


def list_processes(proc: str = "/proc") -> list[int]:
    """List the process IDs in view."""
    return [int(name) for name in os.listdir(proc) if name.isdigit()]


def _order_by_user(uid: int, own_pid: int, proc: str) -> Iterator[int]:
    others: list[int] = []
    for pid in sorted(list_processes(proc), reverse=True):
        try:
            is_users = os.stat(f"{proc}/{pid}").st_uid == uid
        except OSError:
            continue
        if pid == own_pid:
            continue
        if is_users:
            yield pid
        else:
            others.append(pid)
    yield from others


def _holds(pid: int, wanted: str, proc: str) -> bool:
    return any(link == wanted for _, link in _links(str(pid), proc))


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


def _links(place: str, proc: str) -> Iterator[tuple[str, str]]:
    """Yield (descriptor, link), the newest descriptor first; the place is ``<pid>`` or ``<pid>/task/<tid>``."""
    try:
        directory = os.open(f"{proc}/{place}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        _refuse_shortage(error)
        return
    try:
        for name in sorted(os.listdir(directory), key=int, reverse=True):
            try:
                yield name, os.readlink(name, dir_fd=directory)
            except OSError:  # Closed since the directory was read.
                continue
    except OSError:  # The process has ended.
        return
    finally:
        os.close(directory)


def _count_in_flight(place: str, name: str, proc: str) -> int:
    return parse_in_flight(_read_fdinfo(place, name, proc, _MAX_FDINFO_BYTES))


def _read_fdinfo(place: str, name: str, proc: str, max_bytes: int) -> bytes:
    """Read a descriptor's fdinfo, at most so many bytes; empty when the descriptor has been closed."""
    text = b""
    try:
        descriptor = os.open(f"{proc}/{place}/fdinfo/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            while len(text) < max_bytes and (part := os.read(descriptor, max_bytes - len(text))):
                text += part
        finally:
            os.close(descriptor)
    except OSError as error:
        _refuse_shortage(error)
    return text


def _refuse_shortage(error: OSError) -> None:
    """Raise the error again where it is about our own resources, and not about the process that is looked at."""
    if error.errno in _OUT_OF_RESOURCES:
        raise error
