"""One holder for each of many sockets, in one walk over the processes for all that wait. Does I/O on ``/proc``.

The walk looks at processes' own descriptor tables: a socket that is only elsewhere has no owner, which is refused.
Many processes that connect at once (the workers of one server) cost one walk, not one each.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from functools import partial

from shared.model.policy.reasons import Reason
from sidecar.attest.facts import AttestationError
from sidecar.attest.holding.tables import HiddenError, find_in_table, list_processes, read_table

_MAX_WAITING = 16_384
_ANSWERS_AT_ONCE = 16
_MAX_OWN = 1 << 22


def find_owners(wanted: Mapping[int, int], *, own_pid: int, proc: str = "/proc") -> dict[int, int]:
    """Find one process for each socket: those of its user first, then all, the youngest number first.

    Arguments:
        wanted: by inode, the user that owns the socket: a hint about where to look first, no more.
        own_pid: the sidecar, which is left out.

    Returns:
        By inode, the process ID; without those that no visible process holds.

    Raises:
        OSError: our own resources are used up.
    """
    found: dict[int, int] = {}
    left = set(wanted)
    for pid in _order_by_user(frozenset(wanted.values()), own_pid, proc):
        try:
            for inode in find_in_table(pid, left, proc):
                found[inode] = pid
                left.discard(inode)
            if not left:
                return found
        except HiddenError:
            continue
    return found


def find_own(proc: str = "/proc") -> set[int]:
    """List the inodes of this process's own sockets."""
    return {inode for inode, _ in read_table(os.getpid(), "self", _MAX_OWN, proc).sockets}


class OwnerSearch:
    """Searches for owners: who asks during a walk is served by the next one. Belongs to one event loop.

    Arguments:
        workers: threads for the walks.
        own_pid: left out.
    """

    def __init__(self, workers: Executor, *, own_pid: int) -> None:
        self._workers = workers
        self._own_pid = own_pid
        self._waiting: dict[int, tuple[int, asyncio.Future[tuple[int, float]]]] = {}
        self._runner: asyncio.Task[None] | None = None

    def close(self) -> None:
        """Stop; who still waits is cancelled."""
        if self._runner is not None:
            self._runner.cancel()
        for _, answer in self._waiting.values():
            answer.cancel()
        self._waiting.clear()

    async def find(self, inode: int, uid: int) -> tuple[int, float]:
        """Wait for the next walk; arguments as for ``find_owners``.

        Returns:
            A process that holds the socket, and when the walk began that saw it, in the loop's time.

        Raises:
            AttestationError: no visible process holds it (``no_owner``); ``overloaded``.
        """
        loop = asyncio.get_running_loop()
        if (waiting := self._waiting.get(inode)) is None:
            if len(self._waiting) >= _MAX_WAITING:
                raise AttestationError("too many searches wait", reason=Reason.OVERLOADED)
            waiting = self._waiting[inode] = (uid, loop.create_future())
            waiting[1].add_done_callback(_retrieve)
        if self._runner is None or self._runner.done():
            self._runner = loop.create_task(self._run(), name="attest-owners")
        return await asyncio.shield(waiting[1])  # Others may wait for the same answer.

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting, began = self._waiting, {}, loop.time()
            wanted = {inode: uid for inode, (uid, _) in batch.items()}
            failure: AttestationError | None = None
            found: dict[int, int] = {}
            try:
                find = partial(find_owners, wanted, own_pid=self._own_pid)
                found = await loop.run_in_executor(self._workers, find)
            except OSError as error:
                failure = AttestationError("no descriptors left", reason=Reason.OVERLOADED)
                failure.__cause__ = error
            except BaseException:
                for _, answer in batch.values():
                    answer.cancel()
                raise
            try:
                await _answer(batch, found, began, failure)
            finally:
                for _, answer in batch.values():
                    answer.cancel()  # Only who has no answer yet, as this ends.


async def _answer(
    batch: Mapping[int, tuple[int, asyncio.Future[tuple[int, float]]]],
    found: Mapping[int, int],
    began: float,
    failure: AttestationError | None,
) -> None:
    """Tell each who waits; a few at once, since each goes on with work of its own on the event loop."""
    for number, (inode, (_, answer)) in enumerate(batch.items(), 1):
        if not number % _ANSWERS_AT_ONCE:
            await asyncio.sleep(0)
        if answer.done():
            continue
        if inode in found:
            answer.set_result((found[inode], began))
        else:
            message = f"no visible process holds socket {inode}"
            answer.set_exception(failure or AttestationError(message, reason=Reason.NO_OWNER))


def _retrieve(answer: asyncio.Future[tuple[int, float]]) -> None:
    if not answer.cancelled():
        answer.exception()  # Who waited for it may have been cancelled.


def _order_by_user(uids: frozenset[int], own_pid: int, proc: str) -> Iterator[int]:
    others: list[int] = []
    for pid in sorted(list_processes(proc), reverse=True):
        try:
            is_users = os.stat(f"{proc}/{pid}").st_uid in uids
        except OSError:
            continue
        if pid == own_pid:
            continue
        if is_users:
            yield pid
        else:
            others.append(pid)
    yield from others
