"""Which processes hold a socket: one of them quickly, or all of them. Does I/O on ``/proc``, off the event loop.

Not seen here: a socket registered with an io_uring instance and closed as a descriptor, and descriptor tables that a
thread keeps for itself (``unshare(CLONE_FILES)``). Both look like no owner, which is refused.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from shared.model.policy.reasons import Reason
from sidecar.attest.facts import AttestationError
from sidecar.attest.process import Process
from sidecar.attest.process_text import parse_in_flight

MAX_PROCESSES = 32_768
MAX_DESCRIPTORS = 1_048_576
_MAX_FDINFO_BYTES = 4_096
_PREFIX = "socket:["


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
        AttestationError: nobody who can be seen holds it (``no_owner``), or the holder vanished.
    """
    wanted = f"{_PREFIX}{inode}]"
    vanished: AttestationError | None = None
    for pid in _order_by_user(uid, own_pid, proc):
        if not _holds(pid, wanted, proc):
            continue
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

    At most 32,768 processes and 1,048,576 descriptors; whoever can't be looked at counts as holding nothing.
    """
    names = {f"{_PREFIX}{inode}]": inode for inode in wanted}
    holders: dict[int, set[int]] = {inode: set() for inode in wanted}
    in_flight: set[int] = set()
    left = MAX_DESCRIPTORS
    pids = list_processes(proc)
    for pid in pids[:MAX_PROCESSES]:
        if pid == own_pid:
            continue
        for name, link in _links(pid, proc):
            left -= 1
            if not link.startswith(_PREFIX):
                continue
            if (inode := names.get(link)) is not None:
                holders[inode].add(pid)
            elif _count_in_flight(pid, name, proc):
                in_flight.add(int(link[len(_PREFIX) : -1]))
        if left <= 0:
            return Holdings(holders=holders, in_flight=frozenset(in_flight), is_complete=False)
    return Holdings(holders=holders, in_flight=frozenset(in_flight), is_complete=len(pids) <= MAX_PROCESSES)


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
    return any(link == wanted for _, link in _links(pid, proc))


def _links(pid: int | str, proc: str) -> Iterator[tuple[str, str]]:
    """Yield (descriptor, link), the newest descriptor first."""
    try:
        directory = os.open(f"{proc}/{pid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
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


def _count_in_flight(pid: int, name: str, proc: str) -> int:
    try:
        descriptor = os.open(f"{proc}/{pid}/fdinfo/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return parse_in_flight(os.read(descriptor, _MAX_FDINFO_BYTES))
        finally:
            os.close(descriptor)
    except OSError:
        return 0
