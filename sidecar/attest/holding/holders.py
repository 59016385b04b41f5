"""One pass over all processes: every holder of the wanted sockets, and what can hide one. Does I/O, off the event loop.

A pass looks wherever a process can keep a socket: in its descriptor table, in the tables that threads keep for
themselves (``unshare(CLONE_FILES)``, or a main thread that has exited), and in the registered files of its io_uring
instances; in random order, so that nobody knows where it looks next. At its end it walks over the processes that have
come since, until it has met nobody who wasn't looked at or whose users aren't known, so that a holder which forks and
exits faster than the pass moves is met as well, or its users are told.

Not seen: an io_uring instance that is itself only registered (``IORING_REGISTER_RING_FDS``) with its descriptor closed,
for which ``/proc`` has no file; a descriptor that one process hands to another while the pass is between the two (each
pass misses it by chance only); the copy of a table while ``fork`` makes it.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from sidecar.attest.holding.tables import (
    MAX_FDINFO_BYTES,
    MAX_RING_FDINFO_BYTES,
    PREFIX,
    HiddenError,
    NewTasks,
    Table,
    inode_of,
    is_running,
    is_socket,
    list_processes,
    list_tables,
    list_threads,
    outranks,
    read_fdinfo,
    read_protocol,
    read_table,
    read_users,
)
from sidecar.attest.holding.walk import Walk
from sidecar.attest.process_text import parse_in_flight, parse_inode, parse_registered_files

MAX_PROCESSES = 32_768
MAX_DESCRIPTORS = 1_048_576
_MAX_KINDS = 262_144
_KINDS_LIFE_S = 60.0
_MAX_NEW_PROCESSES = 4_096
_MAX_WALKS = 64
# Walks that know everybody's users, of which the one that has missed the fewest counts.
_ENOUGH_WALKS = 8
# A new task gets its number shortly before /proc shows it: so many that come meanwhile don't hide it.
_INVISIBLE = 4_096
# At a process whose threads come and go; again at a table whose descriptors do.
_MAX_LOOKS = 3
_OTHER, _TCP, _UNIX, _UNKNOWN, _MOVED = range(1, 6)
_NOBODY: frozenset[int] = frozenset()


def shows_rings_whole(release: str) -> bool:
    """Tell whether a kernel's ``/proc`` shows all files of an io_uring instance or none: Linux 6.16 and later.

    One whose version isn't told counts as older: it may leave files out.
    """
    numbers = re.match(r"(\d+)\.(\d+)", release)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= (6, 16)


_SHOWS_RINGS_WHOLE = shows_rings_whole(os.uname().release)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What one pass over all processes has seen.

    Attributes:
        holders: by inode of a wanted socket, the process IDs that hold it.
        users: user IDs of each of these processes.
        sharers: by process ID asked for, the other processes that hold any TCP socket of it.
        in_flight: by inode of a Unix socket in which descriptors wait to be received, the users of who holds it.
        hidden: by ID of a process that mayn't be inspected, its user IDs; without those that have capabilities which
            the sidecar lacks: they are above whatever it attests.
        missed: users of processes that came and went, or changed their descriptors' places, faster than they could be
            looked at: one of them may hold anything that these users have had.
        is_complete: false when a bound was reached before the last process.
        took_s: CPU time.
    """

    holders: dict[int, frozenset[int]] = field(default_factory=dict)
    users: dict[int, frozenset[int]] = field(default_factory=dict)
    sharers: dict[int, frozenset[int]] = field(default_factory=dict)
    in_flight: dict[int, frozenset[int]] = field(default_factory=dict)
    hidden: dict[int, frozenset[int]] = field(default_factory=dict)
    missed: frozenset[int] = frozenset()
    is_complete: bool = True
    took_s: float = 0.0


class Passes:
    """Looks through all processes; remembers for a minute which inode is a socket of which kind. One pass at a time.

    Arguments:
        own_pid: the sidecar, which is left out.
        proc: where ``proc(5)`` is mounted.
    """

    def __init__(self, *, own_pid: int, proc: str = "/proc") -> None:
        self._own_pid = own_pid
        self._proc = proc
        self._kinds: dict[int, int] = {}
        self._kinds_since = 0.0

    def find(self, wanted: Collection[int], of: Collection[int] = ()) -> Holdings:
        """Look through the descriptors of every process for these sockets and for descriptors in flight.

        At most 32,768 processes and 1,048,576 descriptors.

        Arguments:
            wanted: inodes of sockets.
            of: process IDs of which ``sharers`` is asked.
        """
        started = time.thread_time()
        if time.monotonic() - self._kinds_since > _KINDS_LIFE_S or len(self._kinds) > _MAX_KINDS:
            self._kinds, self._kinds_since = {}, time.monotonic()
        search = _Search(wanted, self._kinds, own_pid=self._own_pid, proc=self._proc)
        try:
            tasks = NewTasks(self._proc)
        except OSError:
            return Holdings(is_complete=False)
        try:
            pids = list_processes(self._proc)
            random.shuffle(pids)
            search.look_at_all(pids[:MAX_PROCESSES])
            search.catch_up(tasks)
        except OSError:  # Our own resources are used up, or the kernel doesn't list processes one by one.
            search.is_complete = False
        finally:
            tasks.close()
        holders = {pid for each in search.holders.values() for pid in each}
        return Holdings(
            holders=search.holders,
            users={pid: read_users(pid, self._proc) for pid in holders},
            sharers=search.find_sharers(of),
            in_flight={
                inode: frozenset().union(*(read_users(pid, self._proc) for pid in holding))
                for inode, holding in search.in_flight.items()
            },
            hidden={pid: read_users(pid, self._proc) for pid in search.hidden if not outranks(pid, self._proc)},
            missed=search.missed | search.restless,
            is_complete=search.is_complete and search.left > 0 and len(pids) <= MAX_PROCESSES,
            took_s=time.thread_time() - started,
        )


def find_holdings(wanted: Collection[int], *, own_pid: int, proc: str = "/proc") -> Holdings:
    """Make one pass that remembers nothing; as ``Passes.find``."""
    return Passes(own_pid=own_pid, proc=proc).find(wanted)


class _Search:
    """One pass over processes: what was found, and how much may still be looked at."""

    def __init__(self, wanted: Collection[int], kinds: dict[int, int], *, own_pid: int, proc: str) -> None:
        self.holders: dict[int, frozenset[int]] = dict.fromkeys(wanted, _NOBODY)
        self._alone: dict[int, frozenset[int]] = {}
        self.in_flight: dict[int, set[int]] = {}
        self.hidden: set[int] = set()
        self.left = MAX_DESCRIPTORS
        self.is_complete = True
        # Users of processes that ended before they were looked at; of those whose threads come and go all the time, or
        # whose descriptors change places.
        self.missed: frozenset[int] = frozenset()
        self.restless: set[int] = set()
        self._kinds = kinds
        # Which process holds a TCP socket, and those that more than one process holds.
        self._first: dict[int, int] = {}
        self._shared: dict[int, set[int]] = {}
        self._looked: set[int] = set()
        self._own_pid = own_pid
        self._proc = proc

    def look_at_all(self, pids: Iterable[int]) -> None:
        """Look at each process, until a bound is reached."""
        for pid in pids:
            if pid != self._own_pid:
                self.look_at(pid)
            if self.left <= 0:
                return

    def look_at(self, pid: int) -> None:
        """Look at every place where this process can hold a socket."""
        self._looked.add(pid)
        try:
            for _ in range(_MAX_LOOKS):
                threads = list_threads(pid, self._proc)
                for place in list_tables(pid, self._proc, threads=threads):
                    self._look_into(pid, place)
                # Threads with tables of their own may start one another and end, like processes.
                if len(threads) <= 1 or set(threads).issuperset(list_threads(pid, self._proc)):
                    return
            self.restless |= read_users(pid, self._proc)
        except HiddenError:
            self.hidden.add(pid)
        except OSError:  # Our own resources are used up: it may hold anything.
            self.is_complete = False

    def catch_up(self, tasks: NewTasks) -> None:
        """Look at the processes that have come since the pass began, in walks, until one meets nobody unknown.

        Arguments:
            tasks: asked last when the pass began.
        """
        best: frozenset[int] | None = None
        enough, last = _ENOUGH_WALKS, tasks.last
        walk = Walk(last - _INVISIBLE, self._proc)
        try:
            for _ in range(_MAX_WALKS):
                before, last = last, tasks.read()
                if last < before:  # Numbers are given out anew: one of them may be another process by now.
                    self._looked.clear()
                    walk.begin_anew()
                missed = self._walk(walk)
                if missed is not None and tasks.read() >= last:
                    best = missed if best is None or len(missed) < len(best) else best
                    enough -= 1
                if best == frozenset() or self.left <= 0 or not enough:
                    break
        finally:
            walk.close()
        self.missed = best or frozenset()
        self.is_complete &= best is not None

    def _walk(self, walk: Walk) -> frozenset[int] | None:
        """Look at each process that wasn't looked at; return the users of those that ended before that.

        Each chain of processes in which one starts the next and ends has shown one of its own to the walk, which either
        was looked at while it lived, or is of these users.

        Returns:
            None when of one not even the users could be read, or there are too many.
        """
        left, missed, is_known = _MAX_NEW_PROCESSES, set[int](), True
        for pid in walk:
            if pid in self._looked or pid == self._own_pid:
                continue
            users = read_users(pid, self._proc)
            self.look_at(pid)
            if not is_running(pid, self._proc):
                missed |= users
                is_known &= bool(users)
            left -= 1
            if left <= 0 or self.left <= 0:
                return None
        return frozenset(missed) if is_known else None

    def find_sharers(self, of: Collection[int]) -> dict[int, frozenset[int]]:
        """Return, for each of these processes, the others that hold a TCP socket of it."""
        found: dict[int, set[int]] = {pid: set() for pid in of}
        for pids in self._shared.values():
            for pid in pids:
                if pid in found:
                    found[pid] |= pids
        return {pid: frozenset(others - {pid}) for pid, others in found.items()}

    def _look_into(self, pid: int, place: str) -> None:
        """Look at a table, and again at what was moved or closed between the table's reading and its own.

        A process can swap two descriptors all the time. What is moved under each look counts as a socket that it shares
        and its users as missed; what a new reading doesn't show any more was closed.
        """
        table = self._read_table(pid, place)
        moved = self._look_at_sockets(pid, place, table.sockets)
        is_whole = self._look_into_rings(pid, place, table.rings)
        restless: set[int] = set()
        for _ in range(_MAX_LOOKS):
            if not moved and is_whole:
                return
            table = self._read_table(pid, place)
            there = [each for each in table.sockets if each[0] in moved]
            still = self._look_at_sockets(pid, place, there)
            moved -= {inode for inode, _ in there} - still
            restless = (restless | still) & moved
            is_whole = is_whole or self._look_into_rings(pid, place, table.rings)
        if restless or not is_whole:
            self.restless |= read_users(pid, self._proc)
        for inode in restless:
            self._note_tcp(inode, pid)

    def _read_table(self, pid: int, place: str) -> Table:
        self.left -= 1
        table = read_table(pid, place, self.left, self._proc)
        self.left -= table.looked
        return table

    def _look_at_sockets(self, pid: int, place: str, sockets: Iterable[tuple[int, int]]) -> set[int]:
        """Note who holds which socket; return the inodes that none of the given descriptors has any more."""
        moved, read = set[int](), set[int]()
        for inode, descriptor in sockets:
            if inode in self.holders:
                self._note_holder(inode, pid)
            kind = self._kinds.get(inode) or self._read_kind(inode, place, str(descriptor))
            if kind == _TCP:
                self._note_tcp(inode, pid)
            elif kind == _MOVED:
                moved.add(inode)
                continue
            elif kind in (_UNIX, _UNKNOWN):
                if (in_flight := self._count_in_flight(inode, place, str(descriptor))) is None:
                    moved.add(inode)
                    continue
                if in_flight:
                    self.in_flight.setdefault(inode, set()).add(pid)
            if moved:
                read.add(inode)
        return moved - read

    def _note_holder(self, inode: int, pid: int) -> None:
        """Note it in a set of its own only where others hold the socket, too: thousands mostly have one holder."""
        if not (known := self.holders[inode]):
            self.holders[inode] = self._alone.setdefault(pid, frozenset((pid,)))
        elif pid not in known:
            self.holders[inode] = known | {pid}

    def _read_kind(self, inode: int, place: str, name: str) -> int:
        protocol = read_protocol(place, name, inode, self._proc)
        if not protocol:
            return _MOVED if protocol is None else _UNKNOWN
        kind = _UNIX if protocol.startswith("UNIX") else _TCP if "TCP" in protocol else _OTHER
        self._kinds[inode] = kind
        return kind

    def _note_tcp(self, inode: int, pid: int) -> None:
        first = self._first.setdefault(inode, pid)
        if first != pid:
            self._shared.setdefault(inode, {first}).add(pid)

    def _count_in_flight(self, inode: int, place: str, name: str) -> int | None:
        """Return how many descriptors wait in a socket; None when the descriptor isn't this socket any more."""
        text = read_fdinfo(place, name, MAX_FDINFO_BYTES, self._proc)
        # Before Linux 5.14 the text doesn't tell whose it is.
        is_same = shown == inode if (shown := parse_inode(text)) else is_socket(place, name, inode, self._proc)
        return parse_in_flight(text) if is_same else None

    def _look_into_rings(self, pid: int, place: str, rings: Iterable[int]) -> bool:
        """Look at the registered files of each; tell whether each was an io_uring instance that showed them."""
        shown = [self._look_into_ring(pid, place, str(descriptor)) for descriptor in rings]
        return all(shown)

    def _look_into_ring(self, pid: int, place: str, name: str) -> bool:
        text = read_fdinfo(place, name, MAX_RING_FDINFO_BYTES, self._proc)
        if (registered := parse_registered_files(text, is_all_or_nothing=_SHOWS_RINGS_WHOLE)) is None:
            return False
        files, is_whole = registered
        self.left -= len(files)
        self.is_complete &= is_whole and len(text) < MAX_RING_FDINFO_BYTES
        for file in files:
            if file.startswith(PREFIX):
                if (inode := inode_of(file)) in self.holders:
                    self._note_holder(inode, pid)
                # Which kind of socket isn't told here: what no table shows as TCP as well is shared with nobody.
                self._note_tcp(inode, pid)
        return True


def is_holder(pid: int, inode: int, proc: str = "/proc") -> bool:
    """Tell whether a process holds a socket anywhere: in its table, a thread's own, or an io_uring instance.

    One that can't be looked at completely counts as a holder.
    """
    search = _Search([inode], {}, own_pid=0, proc=proc)
    search.look_at(pid)
    is_whole = search.is_complete and search.left > 0 and not search.hidden and not search.restless
    return bool(search.holders[inode]) or not is_whole
