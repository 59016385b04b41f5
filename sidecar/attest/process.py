"""One process, held by descriptors so that a reused process ID can't take its place. Does I/O on ``/proc`` only.

An open ``/proc/<pid>`` directory belongs to one process: after its end every read fails with ESRCH, whoever got the
number next. What it read of the program holds for as long as the process's memory (``memory.py``) is in use.
"""

from __future__ import annotations

import errno
import os
import select
import time
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice

from shared.model.policy.reasons import Reason
from sidecar.attest.facts import AttestationError, ProcessFacts
from sidecar.attest.memory import Memory
from sidecar.attest.process_text import ProcessTextError, parse_stat, parse_tracer, parse_uid
from sidecar.native.engine import current_look

_MAX_HINTS = 256
_MAX_HINTS_TRIED = 4
# Before its whole table is searched, which costs as much as looks at dozens of them.
_MAX_HINTS_BEFORE_SEARCH = 12
_MAX_NEWEST = 16
_MAX_THREADS = 1_024
# For the looks at new connections, on the event loop: so long a look at the threads serves, and at most so many of
# them are looked at, the next ones at the next look. Each costs about 10 µs.
THREADS_AGE_S = 0.05
_MAX_THREADS_AT_ONCE = 32
_STATUS_BYTES = 8_192
_STAT_BYTES = 2_048
_GONE = frozenset((errno.ENOENT, errno.ESRCH))
_DENIED = frozenset((errno.EACCES, errno.EPERM))


class FileKey(tuple[int, int, int, int, int]):
    """Device, inode, size, mtime and ctime (ns): while these are equal, so is a file's content."""

    __slots__ = ()

    @classmethod
    def of(cls, status: os.stat_result) -> FileKey:
        """Take the key from a ``stat`` result."""
        return cls((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))

    @property
    def size(self) -> int:
        """The file's size in bytes."""
        return self[2]

    @property
    def changed_ns(self) -> int:
        """When content or attributes changed last; only the machine's clock sets it."""
        return self[4]


class Process:
    """A process with its kept descriptors: its memory's two, descriptor table, ``status`` and a pidfd.

    Used by one thread at a time: opened in a worker, then handed to the event loop.

    Arguments:
        pid: in this PID namespace.
        proc: where ``proc(5)`` is mounted.

    Raises:
        AttestationError: it is gone (``process_vanished``) or mayn't be looked at (``executable_unreadable``).
    """

    __slots__ = (
        "_descriptors", "_directory", "_exit", "_hints", "_is_recycling", "_pidfd", "_status", "_thread_turn",
        "_threads_until", "_tracer_until", "facts", "image", "memory", "pid",
    )  # fmt: skip

    def __init__(self, pid: int, *, proc: str = "/proc") -> None:
        opened: list[int] = []
        self.pid = pid
        # Where sockets were found, the one longest ago first.
        self._hints: OrderedDict[int, None] = OrderedDict()
        self._is_recycling = False  # The last one was one of these, and not the one before.
        self._threads_until = self._tracer_until = 0.0
        self._thread_turn = 0
        try:
            self.memory = Memory(pid, proc=proc)
            self._directory = self.memory.directory
            # The pidfd names this very process if the directory still answers after the pidfd was opened.
            self._pidfd = os.pidfd_open(pid)
            opened.append(self._pidfd)
            self._status = self._open("status", opened)
            self._descriptors = self._open("fd", opened, os.O_DIRECTORY)
            self.image = parse_stat(self._read("stat", _STAT_BYTES))
            status = os.pread(self._status, _STATUS_BYTES, 0)
            path = os.readlink("exe", dir_fd=self._directory)
            if not self.memory.is_in_use():  # It executed something between these reads, or has ended.
                raise ProcessLookupError(errno.ESRCH, "another program")
            self.facts = ProcessFacts(pid=pid, start_time=self.image.start_time, uid=parse_uid(status), path=path)
        except (OSError, ProcessTextError) as error:
            for descriptor in opened:
                os.close(descriptor)
            raise _explain(error, pid, None) from error
        self._exit = select.poll()
        self._exit.register(self._pidfd, select.POLLIN)

    def close(self) -> None:
        """Close every kept descriptor but the memory's, which go with the last execution that keeps it."""
        for descriptor in (self._pidfd, self._status, self._descriptors):
            os.close(descriptor)

    def has_ended(self) -> bool:
        """Tell whether the process has ended, a zombie included."""
        return bool(self._exit.poll(0))

    def has_executed(self) -> bool:
        """Tell whether it has executed another program, or ended, since it was opened.

        Raises:
            AttestationError: it is gone (``process_vanished``).
        """
        try:
            return not self.memory.is_in_use()
        except OSError as error:
            raise _explain(error, self.pid, self.facts) from error

    def read_executable(self) -> FileKey:
        """Read the key of the file that it executes now.

        Raises:
            AttestationError: it is gone, or its executable mayn't be looked at.
        """
        try:
            return FileKey.of(os.stat("exe", dir_fd=self._directory))
        except OSError as error:
            raise _explain(error, self.pid, self.facts) from error

    def refuse_tracer(self, *, all_threads: bool) -> None:
        """Refuse a process that a debugger traces.

        Arguments:
            all_threads: look at each thread (at most 1,024), not only at the first: a tracer may seize any of them.

        Raises:
            AttestationError: it is traced (``process_traced``), or gone.
        """
        try:
            tracer = parse_tracer(os.pread(self._status, _STATUS_BYTES, 0))
            if not tracer and all_threads:
                tracer = self._find_thread_tracer()
        except (OSError, ProcessTextError) as error:
            raise _explain(error, self.pid, self.facts) from error
        if tracer:
            raise self._traced(tracer)

    def refuse_traced_threads(self) -> None:
        """Refuse a process of which a debugger traces any thread, in some ten microseconds: at most each 50 ms.

        Of one with more than 32 threads each look sees the next 32; ``refuse_tracer`` sees all.

        Raises:
            AttestationError: it is traced (``process_traced``), or gone.
        """
        if (now := time.monotonic()) < self._threads_until:
            return
        try:
            # Two links and one for each thread (fs/proc/base.c, ``proc_task_getattr``). The first one alone has been
            # looked at.
            if os.stat("task", dir_fd=self._directory).st_nlink > 3 and (tracer := self._find_next_thread_tracer()):
                raise self._traced(tracer)
        except (OSError, ProcessTextError) as error:
            raise _explain(error, self.pid, self.facts) from error
        self._threads_until = now + THREADS_AGE_S

    def find_descriptor(self, inode: int, *, hint: str = "", max_descriptors: int = 0) -> str:
        """Look for a socket among its descriptors: where one was found before, then the newest first.

        Arguments:
            inode: of the socket.
            hint: the descriptor to look at before all others.
            max_descriptors: 0 looks only where others were found; a table with more is searched for its newest only.

        Returns:
            The descriptor's number as text; empty when it isn't found.
        """
        wanted = f"socket:[{inode}]"
        for number in self._list_hints(hint, max_descriptors):
            if self._link(str(number)) == wanted:
                return self._remember(number)
        return self._search(inode, max_descriptors) if max_descriptors else ""

    def find_and_compare(
        self, inode: int, key: FileKey, *, hint: str = "", max_descriptors: int = 0
    ) -> tuple[str, bool]:
        """Look for a socket as ``find_descriptor``; then see that nobody traces it, and whether it runs what it did.

        Who traces it is looked at each 50 ms, as with its other threads: it is the dearest of these looks, since the
        kernel writes everything that ``status`` tells. Only in this order: the same ``execve`` as when it was opened
        is the one that ran all the time between, so the descriptor was seen in this program's table.

        Arguments:
            key: of the executable.

        Returns:
            The descriptor, empty when it isn't found; and whether it has executed nothing since, and the file is as it
            was.

        Raises:
            AttestationError: it is traced (``process_traced``), or gone.
        """
        now = time.monotonic()
        if (look := current_look()) is None:
            descriptor = self.find_descriptor(inode, hint=hint, max_descriptors=max_descriptors)
            if not descriptor:
                return "", False
            if now >= self._tracer_until:
                self.refuse_tracer(all_threads=False)
                self._tracer_until = now + THREADS_AGE_S
            return descriptor, not self.has_executed() and self.read_executable() == key
        hints = array("I", self._list_hints(hint, max_descriptors)).tobytes()
        is_due = now >= self._tracer_until
        files = self._status if is_due else None, self.memory.maps, self._directory
        found = look.look(self._descriptors, inode, hints, *files)
        if found is None and max_descriptors and (name := self._search(inode, max_descriptors)):
            found = look.look(self._descriptors, inode, array("I", (int(name),)).tobytes(), *files)
        if found is None:
            return "", False
        number, code, tracer, is_in_use, executable = found
        if code:
            error = OSError(code, os.strerror(code))
            raise _explain(error, self.pid, self.facts) from error
        if tracer:
            raise self._traced(tracer)
        if is_due:
            self._tracer_until = now + THREADS_AGE_S
        return self._remember(number), bool(is_in_use) and executable == key

    def _list_hints(self, hint: str, max_descriptors: int) -> list[int]:
        """List the descriptors to look at before all others."""
        numbers = [int(hint)] if hint else []
        if not self._hints:
            return numbers
        # A process that closes each connection gets the same descriptor again; one that keeps them, the next number.
        last = next(reversed(self._hints))
        # One with many connections closes about the oldest one and gets its descriptor for the next.
        oldest = islice(self._hints, _MAX_HINTS_BEFORE_SEARCH if max_descriptors else _MAX_HINTS_TRIED)
        numbers += (*oldest, last, last + 1) if self._is_recycling else (last, last + 1, *oldest)
        return numbers

    def _search(self, inode: int, max_descriptors: int) -> str:
        """Search its table, the newest descriptors first; of one that is larger only these."""
        wanted = f"socket:[{inode}]"
        try:
            # Since Linux 6.2 the size of this directory is the number of descriptors; before that it is 0.
            count = os.fstat(self._descriptors).st_size
            if count <= max_descriptors and (look := current_look()) is not None:
                _, _, found = look.find(self._descriptors, array("Q", (inode,)).tobytes(), max_descriptors)
                return self._remember(array("I", found)[2]) if found else ""
            if count > max_descriptors:
                # A new descriptor gets the lowest free number: near the count in a table without many gaps.
                names = [str(number) for number in range(count + _MAX_NEWEST, count - 2 * _MAX_NEWEST, -1)]
            else:
                names = os.listdir(self._descriptors)  # In ascending order.
        except OSError:
            return ""
        if len(names) > max_descriptors:
            return ""
        for name in names if count > max_descriptors else reversed(names):
            if self._link(name) == wanted:
                return self._remember(int(name))
        return ""

    def explain(self, error: OSError) -> AttestationError:
        """Say what a failed look at this process means."""
        return _explain(error, self.pid, self.facts)

    def open_executable(self) -> int:
        """Open what it executes now for reading; the caller closes the descriptor.

        Raises:
            AttestationError: it is gone, or its executable mayn't be read.
        """
        try:
            return os.open("exe", os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK, dir_fd=self._directory)
        except OSError as error:
            raise _explain(error, self.pid, self.facts) from error

    def open_inside(self, name: str) -> int:
        """Open its ``root`` or ``cwd`` as a path-only descriptor; the caller closes it.

        Raises:
            OSError: it is gone, or mayn't be looked at.
        """
        return os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._directory)

    def read_working_directory(self) -> str:
        """Read the link ``cwd``.

        Raises:
            OSError: it is gone, or mayn't be looked at.
        """
        return os.readlink("cwd", dir_fd=self._directory)

    def read_arguments(self, max_bytes: int) -> bytes:
        """Read ``cmdline``, which the process can rewrite.

        Raises:
            OSError: it is gone.
        """
        return self._read("cmdline", max_bytes)

    def _traced(self, tracer: int) -> AttestationError:
        message = f"process {self.pid} is traced by process {tracer}"
        return AttestationError(message, reason=Reason.PROCESS_TRACED, process=self.facts)

    def _open(self, name: str, opened: list[int], flags: int = 0) -> int:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | flags, dir_fd=self._directory)
        opened.append(descriptor)
        return descriptor

    def _read(self, name: str, max_bytes: int) -> bytes:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory)
        try:
            return os.read(descriptor, max_bytes)
        finally:
            os.close(descriptor)

    def _remember(self, number: int) -> str:
        hints = self._hints
        if number not in hints:
            self._is_recycling, hints[number] = False, None
            if len(hints) > _MAX_HINTS:
                hints.popitem(last=False)
        elif number == next(reversed(hints)):
            self._is_recycling = False
        else:
            self._is_recycling = True
            hints.move_to_end(number)
        return str(number)

    def _link(self, name: str) -> str:
        try:
            return os.readlink(name, dir_fd=self._descriptors)
        except OSError:
            return ""

    def _find_thread_tracer(self) -> int:
        return next(filter(None, map(parse_tracer, self._read_thread_statuses(0, _MAX_THREADS))), 0)

    def _find_next_thread_tracer(self) -> int:
        first = self._thread_turn
        self._thread_turn += _MAX_THREADS_AT_ONCE
        return next(filter(None, map(parse_tracer, self._read_thread_statuses(first, _MAX_THREADS_AT_ONCE))), 0)

    def _read_thread_statuses(self, first: int, most: int) -> Iterator[bytes]:
        """Read the status of so many threads from one on, and from the beginning again where there are no more."""
        tasks = os.open("task", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._directory)
        try:
            threads = os.listdir(tasks)
            first = first % len(threads) if len(threads) > most else 0
            for thread in (threads[first:] + threads[:first])[:most]:
                try:
                    descriptor = os.open(f"{thread}/status", os.O_RDONLY | os.O_CLOEXEC, dir_fd=tasks)
                except FileNotFoundError:  # The thread has ended.
                    continue
                try:
                    yield os.read(descriptor, _STATUS_BYTES)
                except ProcessLookupError:
                    continue
                finally:
                    os.close(descriptor)
        finally:
            os.close(tasks)


def _explain(error: Exception, pid: int, facts: ProcessFacts | None) -> AttestationError:
    number = error.errno if isinstance(error, OSError) else None
    if number in _GONE:
        return AttestationError(f"process {pid} has ended", reason=Reason.PROCESS_VANISHED, process=facts)
    if number in _DENIED:
        message = f"process {pid} may not be inspected"
        return AttestationError(message, reason=Reason.EXECUTABLE_UNREADABLE, process=facts)
    if number in (errno.EMFILE, errno.ENFILE):
        return AttestationError("no descriptors left", reason=Reason.OVERLOADED, process=facts)
    return AttestationError(f"process {pid} can't be inspected", reason=Reason.EXECUTABLE_UNREADABLE, process=facts)
