"""Files hashed through open descriptors, in worker threads, each content once; and the bounded cache of hashes.

The path of a file plays no part: what is hashed is the inode that the kernel executes. Does I/O off the event loop.
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

from shared.model.policy.reasons import Reason
from sidecar.attest.facts import AttestationError
from sidecar.attest.filesystem import has_reliable_times
from sidecar.attest.process import FileKey

_CHUNK_BYTES = 262_144
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


def hash_file(descriptor: int, key: FileKey, max_bytes: int) -> Measurement:
    """Hash a regular file through its descriptor, and check that it didn't change while it was read. Blocks.

    Arguments:
        key: what ``fstat`` said before.
        max_bytes: a larger file is refused before and while it is read.

    Raises:
        AttestationError: too large, no regular file, unreadable, or changed while it was read.
    """
    if key.size > max_bytes:
        raise AttestationError(
            f"the file has {key.size} bytes, the limit is {max_bytes}", reason=Reason.EXECUTABLE_TOO_LARGE
        )
    started_ns = time.time_ns()
    digest = hashlib.sha256()
    buffer = bytearray(_CHUNK_BYTES)
    view = memoryview(buffer)
    offset = 0
    try:
        while count := os.preadv(descriptor, [buffer], offset):
            offset += count
            if offset > key.size:
                break
            digest.update(view[:count])
        status = os.fstat(descriptor)
    except OSError as error:
        raise AttestationError("the file can't be read", reason=Reason.EXECUTABLE_UNREADABLE) from error
    if not stat.S_ISREG(status.st_mode):
        raise AttestationError("not a regular file", reason=Reason.EXECUTABLE_UNREADABLE)
    if FileKey.of(status) != key or offset != key.size:
        raise AttestationError("the file changed while it was hashed", reason=Reason.EXECUTABLE_CHANGED)
    is_settled = abs(started_ns - key.changed_ns) > _SETTLED_NS
    return Measurement(digest=digest.hexdigest(), is_lasting=is_settled and has_reliable_times(descriptor))


class Executables:
    """The hashes of files: one hashing a file at a time, results kept for as long as their key proves them.

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

    def get(self, key: FileKey) -> Measurement | None:
        """Take a lasting measurement from the cache."""
        found = self._known.get(key)
        if found is not None:
            self._known.move_to_end(key)
        return found

    async def measure(self, descriptor: int, key: FileKey) -> Measurement:
        """Hash a file, or wait for the hash that is under way. The descriptor stays the caller's.

        Raises:
            AttestationError: as ``hash_file``.
        """
        if (found := self.get(key)) is not None:
            return found
        running = self._running.get(key)
        if running is None:
            running = self._start(os.dup(descriptor), key)
        # One waiter that is cancelled must not take the measurement from the others.
        return await asyncio.shield(running)

    def _start(self, descriptor: int, key: FileKey) -> asyncio.Future[Measurement]:
        running = asyncio.get_running_loop().run_in_executor(self._workers, hash_file, descriptor, key, self._max_bytes)
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
        return running
