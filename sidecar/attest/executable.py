"""Files hashed through open descriptors, in worker threads, each content once; and the bounded cache of hashes.

Files are hashed in slices, and the file of which least was read comes first: a small program never waits for a
stranger's gigabyte. The path of a file plays no part: what is hashed is the inode that the kernel executes. Does I/O
off the event loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import time
from collections import OrderedDict
from concurrent.futures import Executor
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

from shared.model.policy.reasons import Reason
from sidecar.attest.facts import AttestationError
from sidecar.attest.filesystem import has_reliable_times
from sidecar.attest.process import FileKey

_CHUNK_BYTES = 262_144
# About 5 ms of one core.
_SLICE_BYTES = 4 << 20
# As many files are hashed side by side.
_MAX_RUNNERS = 2
# A file that changed this recently may change again within the same tick of its file system's clock.
_SETTLED_NS = 100_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The SHA-256 of one file.

    Attributes:
        digest: 64 lower-case hexadecimal digits.
        is_lasting: an equal ``FileKey`` proves equal content later on. Otherwise the file is hashed again whenever
            another process, or a later ``execve``, runs it.
    """

    digest: str
    is_lasting: bool


class Hashing:
    """The hashing of one regular file through its descriptor, slice by slice. Used by one thread at a time.

    Arguments:
        descriptor: the caller's, who closes it afterwards.
        key: what ``fstat`` said before.
        max_bytes: a larger file is refused before and while it is read.

    Attributes:
        offset: how many bytes were read.
    """

    __slots__ = ("_descriptor", "_digest", "_key", "_max_bytes", "_started_ns", "offset")

    def __init__(self, descriptor: int, key: FileKey, max_bytes: int) -> None:
        self._descriptor = descriptor
        self._key = key
        self._max_bytes = max_bytes
        self._started_ns = time.time_ns()
        self._digest = hashlib.sha256()
        self.offset = 0

    def go_on(self) -> Measurement | None:
        """Hash the next 4 MiB, and check at the end that the file didn't change while it was read. Blocks.

        Returns:
            None while there is more to read.

        Raises:
            AttestationError: too large, no regular file, unreadable, or changed while it was read.
        """
        if self._key.size > self._max_bytes:
            message = f"the file has {self._key.size} bytes, the limit is {self._max_bytes}"
            raise AttestationError(message, reason=Reason.EXECUTABLE_TOO_LARGE)
        try:
            if self._read_slice():
                return None
            status = os.fstat(self._descriptor)
        except OSError as error:
            raise AttestationError("the file can't be read", reason=Reason.EXECUTABLE_UNREADABLE) from error
        if not stat.S_ISREG(status.st_mode):
            raise AttestationError("not a regular file", reason=Reason.EXECUTABLE_UNREADABLE)
        if FileKey.of(status) != self._key or self.offset != self._key.size:
            raise AttestationError("the file changed while it was hashed", reason=Reason.EXECUTABLE_CHANGED)
        is_settled = abs(self._started_ns - self._key.changed_ns) > _SETTLED_NS
        is_lasting = is_settled and has_reliable_times(self._descriptor)
        return Measurement(digest=self._digest.hexdigest(), is_lasting=is_lasting)

    def _read_slice(self) -> bool:
        """Read and hash; tell whether there may be more."""
        buffer = bytearray(_CHUNK_BYTES)
        view = memoryview(buffer)
        end = self.offset + _SLICE_BYTES
        while self.offset < end:
            count = os.preadv(self._descriptor, [buffer], self.offset)
            self.offset += count
            if not count or self.offset > self._key.size:
                return False
            self._digest.update(view[:count])
        return True


def hash_file(descriptor: int, key: FileKey, max_bytes: int) -> Measurement:
    """Hash a regular file from its start to its end; arguments and errors as for ``Hashing``. Blocks."""
    hashing = Hashing(descriptor, key, max_bytes)
    while (found := hashing.go_on()) is None:
        pass
    return found


class Executables:
    """The hashes of files: one hashing a file at a time, results kept for as long as their key proves them.

    Belongs to one event loop.

    Arguments:
        workers: threads that hash.
        max_bytes: of one file.
        max_entries: of the cache; the least recently used goes first.
    """

    def __init__(self, workers: Executor, *, max_bytes: int, max_entries: int = 4_096) -> None:
        self._workers = workers
        self._max_bytes = max_bytes
        self._max_entries = max_entries
        self._known: OrderedDict[FileKey, Measurement] = OrderedDict()
        self._running: dict[FileKey, asyncio.Future[Measurement]] = {}
        # By bytes read, then in the order of asking; bounded by what attests.
        self._waiting: list[tuple[int, int, Hashing, asyncio.Future[Measurement]]] = []
        self._numbers = count()
        self._runners: set[asyncio.Task[None]] = set()

    def get(self, key: FileKey) -> Measurement | None:
        """Take a lasting measurement from the cache."""
        found = self._known.get(key)
        if found is not None:
            self._known.move_to_end(key)
        return found

    async def measure(self, descriptor: int, key: FileKey) -> Measurement:
        """Hash a file, or wait for the hash that is under way. The descriptor stays the caller's.

        Raises:
            AttestationError: as ``Hashing.go_on``.
        """
        if (found := self.get(key)) is not None:
            return found
        running = self._running.get(key)
        if running is None:
            try:
                kept = os.dup(descriptor)
            except OSError as error:
                raise AttestationError("no descriptors left", reason=Reason.OVERLOADED) from error
            running = self._start(kept, key)
        # One waiter that is cancelled must not take the measurement from the others.
        return await asyncio.shield(running)

    def _start(self, descriptor: int, key: FileKey) -> asyncio.Future[Measurement]:
        loop = asyncio.get_running_loop()
        running: asyncio.Future[Measurement] = loop.create_future()
        self._running[key] = running

        def finish(done: asyncio.Future[Measurement]) -> None:
            os.close(descriptor)
            del self._running[key]
            if done.cancelled() or done.exception() is not None:
                return
            if done.result().is_lasting:
                self._known[key] = done.result()
                while len(self._known) > self._max_entries:
                    self._known.popitem(last=False)

        running.add_done_callback(finish)
        heappush(self._waiting, (0, next(self._numbers), Hashing(descriptor, key, self._max_bytes), running))
        if len(self._runners) < _MAX_RUNNERS:
            runner = loop.create_task(self._run(), name="attest-hash")
            self._runners.add(runner)
            runner.add_done_callback(self._runners.discard)
        return running

    async def _run(self) -> None:
        """Hash a slice of the file of which least was read, again and again, until no file waits."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            _, number, hashing, running = heappop(self._waiting)
            try:
                found = await loop.run_in_executor(self._workers, hashing.go_on)
            except asyncio.CancelledError:
                for each in (running, *(waiting for _, _, _, waiting in self._waiting)):
                    each.cancel()
                self._waiting.clear()
                raise
            except Exception as error:  # Most are an AttestationError; who waits learns of the others as well.
                running.set_exception(error)
            else:
                if found is None:
                    heappush(self._waiting, (hashing.offset, number, hashing, running))
                else:
                    running.set_result(found)
