"""All holders of a socket: every other one must run the same program. In passes over all processes, off the loop.

One pass costs about 10 ms for a hundred processes, so it serves everybody who waits. Passes rest in between: twenty
times as long as they took, or, where a connection's first byte waits, as long as they took.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from shared.model.policy.reasons import Reason
from shared.runtime.patience import Patience
from sidecar.attest.facts import Attestation, AttestationError, Execution
from sidecar.attest.holding.clearance import Clearance
from sidecar.attest.holding.glance import glance_at_all
from sidecar.attest.holding.holders import Holdings, Passes, is_holder
from sidecar.attest.measure import Measured, Measuring
from sidecar.attest.process import Process
from sidecar.slices import SLICE_S, run_in_slices

_MAX_WAITING = 16_384
_REST_FACTOR = 20
_MAX_REST_S = 2.0
_FLIGHT_WAIT_S = 0.05
_MAX_MEASURINGS = 3
_MAX_PASSES = 3
# Of whom root's processes may have got a socket isn't known.
_ANYBODY = frozenset((0,))

Found = Measured | Execution | AttestationError


@dataclass(slots=True, kw_only=True, eq=False)
class _Request:
    attestation: Attestation
    answer: asyncio.Future[None]

    @property
    def inodes(self) -> tuple[int, ...]:
        return self.attestation.inode, *self.attestation.others

    def find_holders(self, holdings: Holdings) -> list[tuple[int, int]]:
        """List (process ID, inode) of everybody who holds one of its sockets."""
        return [(pid, inode) for inode in self.inodes for pid in holdings.holders.get(inode, ())]

    def find_users(self, holdings: Holdings) -> frozenset[int]:
        """Return the users who may have had its socket in hand: of the socket, the process and all holders."""
        attestation = self.attestation
        own = frozenset((attestation.process.uid, attestation.uid))
        return own.union(*(holdings.users.get(pid, frozenset()) for pid, _ in self.find_holders(holdings)))


class HolderCheck:
    """Checks sockets for foreign holders.

    Arguments:
        measuring: measures the other holders of a socket.
        workers: threads for the passes.
        own_pid: left out of every pass.
        patience: how long a connection's first byte may wait while no pass ends.
    """

    def __init__(self, measuring: Measuring, workers: Executor, *, own_pid: int, patience: Patience) -> None:
        self._measuring = measuring
        self._workers = workers
        self._patience = patience
        # Of its own: others' new tasks are looked at beside a pass, which may hang while they go on.
        self._catching_patience = patience.for_other_work()
        self._passes = Passes(own_pid=own_pid)
        self._clearance = Clearance(own_pid=own_pid)
        self._waiting: list[_Request] = []
        self._runner: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._catching: asyncio.Task[None] | None = None
        self._ended = self._took_s = 0.0

    def close(self) -> None:
        """Stop; who still waits is cancelled."""
        if self._runner is not None:
            self._runner.cancel()
        if self._catching is not None:
            self._catching.cancel()
        for request in self._waiting:
            request.answer.cancel()
        self._waiting.clear()
        self._clearance.close()

    def is_clear(self, attestation: Attestation) -> bool:
        """Tell whether a pass has cleared this process and no task that came since holds the socket; never waits."""
        return self._clearance.is_clear(attestation)

    async def clear(self, attestation: Attestation) -> None:
        """See before a socket's first byte that nobody else holds it: by the tasks that came since, or by a pass.

        Raises:
            AttestationError: as ``check``; ``holders_unknown`` as well when the search stands still.
        """
        try:
            if not await self._catch_up(attestation):
                async with self._patience.wait():
                    await self.check(attestation, is_urgent=True)
        except TimeoutError as error:
            raise _unknown("the search for other holders of the socket took too long", error) from error

    async def _catch_up(self, attestation: Attestation) -> bool:
        """Look at the tasks that came since the pass that has cleared a process; tell whether that is enough."""
        if not self._clearance.is_cleared(attestation.execution):
            return False
        if self._catching is None or self._catching.done():
            work = self._clearance.catch_up(self._workers)
            self._catching = asyncio.get_running_loop().create_task(work, name="attest-new-tasks")
        async with self._catching_patience.wait():
            await asyncio.shield(self._catching)
        self._catching_patience.note_progress()
        return self.is_clear(attestation)

    def check(self, attestation: Attestation, *, is_urgent: bool = False) -> asyncio.Future[None]:
        """Ask the next pass; return its answer to come. No coroutine: each live connection waits for one half its life.

        Arguments:
            is_urgent: a connection's first byte waits for it.

        Raises:
            AttestationError: ``overloaded``: too many checks wait. By the answer: ``socket_shared``;
                ``program_changed``, ``process_traced`` and the like of the attested process itself;
                ``holders_unknown``.
        """
        if len(self._waiting) >= _MAX_WAITING:
            raise AttestationError("too many holder checks wait", reason=Reason.OVERLOADED)
        loop = asyncio.get_running_loop()
        request = _Request(attestation=attestation, answer=loop.create_future())
        self._waiting.append(request)
        if is_urgent:
            self._hurry.set()
        if self._runner is None or self._runner.done():
            self._runner = loop.create_task(self._run(), name="attest-holders")
        return request.answer

    async def _run(self) -> None:
        while self._waiting:
            await self._rest()
            self._hurry.clear()
            batch = [request for request in self._waiting if not request.answer.done()]
            self._waiting = []
            try:
                await self._serve(batch)
            except Exception as error:  # A pass that failed proves nothing: everybody who waits for it learns so.
                for request in batch:
                    if not request.answer.done():
                        request.answer.set_exception(_unknown("not every process could be looked at", error))
            except asyncio.CancelledError:
                for request in batch:
                    request.answer.cancel()
                raise
            self._ended = time.monotonic()

    async def _rest(self) -> None:
        if (left := self._ended + self._took_s - time.monotonic()) > 0:
            await asyncio.sleep(left)
        left = self._ended + min(_MAX_REST_S, _REST_FACTOR * self._took_s) - time.monotonic()
        if left > 0 and not self._hurry.is_set():
            try:
                async with asyncio.timeout(left):
                    await self._hurry.wait()
            except TimeoutError:
                pass

    async def _serve(self, batch: list[_Request]) -> None:
        """Look until nothing that concerns a request is in flight or was missed, at most three times.

        Others are answered at once. A descriptor in flight shows its holder only later.
        """
        mark, holdings = self._clearance.begin(), await self._look(batch, None)
        for number in range(_MAX_PASSES):
            waiting = [request async for request in _in_slices(batch) if _is_undecided(request, holdings)]
            if number == _MAX_PASSES - 1:
                waiting = []
            left = frozenset(map(id, waiting))
            await self._answer([request for request in batch if id(request) not in left], holdings, mark)
            batch = waiting
            if not batch:
                return
            await asyncio.sleep(_FLIGHT_WAIT_S)
            mark, holdings = self._clearance.begin(), await self._look(batch, holdings)

    async def _look(self, batch: list[_Request], before: Holdings | None) -> Holdings:
        """Make one pass; holders that an earlier one saw still count."""
        wanted = {inode for request in batch for inode in request.inodes}
        find = partial(self._passes.find, wanted, {request.attestation.process.pid for request in batch})
        now = await asyncio.get_running_loop().run_in_executor(self._workers, find)
        self._took_s = now.took_s
        self._patience.note_progress()
        if before is None:
            return now
        return Holdings(
            holders={inode: pids.union(before.holders.get(inode, ())) for inode, pids in now.holders.items()},
            users={**before.users, **now.users},
            sharers=now.sharers,
            in_flight=now.in_flight,
            hidden={**before.hidden, **now.hidden},
            missed=now.missed,
            is_complete=now.is_complete,
            took_s=now.took_s,
        )

    async def _answer(self, batch: list[_Request], holdings: Holdings, mark: int) -> None:
        """Judge each request, and remember which processes are clear."""
        if not batch:
            return
        pids: set[int] = set()
        async for request in _in_slices(batch):
            pids.update(pid for pid, _ in request.find_holders(holdings))
            pids.update(holdings.sharers.get(request.attestation.process.pid, ()))
        loop = asyncio.get_running_loop()
        found: dict[int, Found] = dict(await loop.run_in_executor(self._workers, partial(glance_at_all, pids)))
        cleared: set[Execution] = set()
        suspected: set[Execution] = set()
        try:
            async for request in _in_slices(batch):
                error = await self._judge(request, holdings, found)
                execution = request.attestation.execution
                if error is None and _is_unshared(request, holdings, found):
                    cleared.add(execution)
                else:
                    suspected.add(execution)
                if not request.answer.done():
                    if error is None:
                        request.answer.set_result(None)
                    else:
                        request.answer.set_exception(error)
        finally:
            run_in_slices(_let_go(found))
        for execution in suspected:
            self._clearance.forget(execution)
        if holdings.is_complete:
            self._clearance.note(mark, cleared - suspected)

    async def _judge(self, request: _Request, holdings: Holdings, found: dict[int, Found]) -> AttestationError | None:
        attestation = request.attestation
        for pid, inode in request.find_holders(holdings):
            if _compare(attestation, pid, holder := found[pid]) is None and not _has_vanished(holder):
                continue
            if not isinstance(holder, Measured):  # No fork: what it runs has to be measured.
                holder = await self._measure(pid, inode)
                if not _has_vanished(holder):  # To have let go of one socket says nothing about another.
                    found[pid] = holder
            if (error := _compare(attestation, pid, holder)) is not None:
                return error
        if not holdings.is_complete:
            return _unknown("not every process could be looked at", None)
        users = request.find_users(holdings)
        if holdings.missed & users.union(_ANYBODY):
            message = "processes of the same user, or of root, come and go faster than they can be looked at"
            return _unknown(message, None)
        for pid, hidden in holdings.hidden.items():
            if hidden & users:
                return _unknown(f"process {pid} of the same user may not be inspected", None)
        if _find_in_flight(request, holdings):
            message = "descriptors are in flight in a Unix socket of the same user"
            return AttestationError(message, reason=Reason.SOCKET_SHARED, process=attestation.process)
        return None

    async def _measure(self, pid: int, inode: int) -> Measured | AttestationError:
        """Measure a holder; one that doesn't hold the socket any more has vanished.

        A child of the attested program holds the socket between its fork and the ``execve`` that closes it: what runs
        afterwards is no holder.
        """
        loop = asyncio.get_running_loop()
        for _ in range(_MAX_MEASURINGS):
            try:
                found = await self._measuring.measure(partial(Process, pid), 0)
                self._patience.note_progress()
                break
            except AttestationError as error:
                if error.reason is not Reason.PROCESS_VANISHED:
                    return error
                if not await loop.run_in_executor(self._workers, is_holder, pid, inode):
                    return error
                await asyncio.sleep(_FLIGHT_WAIT_S)
        else:
            # Its first thread has ended, so that it shows no executable, or it executes one program after the other.
            message = f"what process {pid} runs can't be told"
            return AttestationError(message, reason=Reason.EXECUTABLE_UNREADABLE)
        try:
            if not await loop.run_in_executor(self._workers, is_holder, pid, inode):
                message = f"process {pid} has let go of the socket"
                raise AttestationError(message, reason=Reason.PROCESS_VANISHED, process=found.process.facts)
            if not found.is_current():
                message = f"process {pid} has executed another program"
                raise AttestationError(message, reason=Reason.EXECUTABLE_CHANGED, process=found.process.facts)
        except BaseException as error:
            found.process.close()
            if isinstance(error, AttestationError):
                return error
            raise
        return found


async def _in_slices(batch: Iterable[_Request]) -> AsyncIterator[_Request]:
    """Yield each request, and let the event loop do its other work in between: there may be thousands."""
    until = time.perf_counter() + SLICE_S
    for each in batch:
        yield each
        if time.perf_counter() >= until:
            await asyncio.sleep(0)
            until = time.perf_counter() + SLICE_S


def _let_go(found: dict[int, Found]) -> Iterator[None]:
    """Give up what was seen of holders: two descriptors or more of each."""
    while found:
        _, holder = found.popitem()
        if isinstance(holder, Measured):
            holder.process.close()
        del holder
        yield


def _compare(attestation: Attestation, pid: int, found: Found) -> AttestationError | None:
    is_attested = pid == attestation.process.pid
    if isinstance(found, AttestationError):
        if _has_vanished(found):  # It let go of the socket, or ended: no holder any more.
            return None
        if is_attested:
            return found
        message = f"process {pid} holds the socket as well and can't be attested: {found.message}"
        return AttestationError(message, reason=Reason.SOCKET_SHARED, process=found.process)
    execution, process = (found, None) if isinstance(found, Execution) else (found.execution, found.process.facts)
    # A fork within the same ``execve`` runs the same program, also where it has rewritten its arguments since.
    if execution.is_fork_of(attestation.execution):
        return None
    if isinstance(found, Measured) and found.program == attestation.program:
        return None
    if is_attested:
        message = f"process {pid} executed another program{f': {process.shown_path}' if process else ''}"
        return AttestationError(message, reason=Reason.PROGRAM_CHANGED, process=process)
    message = f"process {pid} holds the socket as well and runs another program"
    return AttestationError(message, reason=Reason.SOCKET_SHARED, process=process)


def _is_unshared(request: _Request, holdings: Holdings, found: dict[int, Found]) -> bool:
    """Tell whether nobody but its own program holds any TCP socket of the attested process.

    A holder that has ended counts as another program: what it was can't be told.
    """
    attestation = request.attestation
    return all(
        not isinstance(other := found[pid], AttestationError) and _compare(attestation, pid, other) is None
        for pid in holdings.sharers.get(attestation.process.pid, ())
    )


def _find_in_flight(request: _Request, holdings: Holdings) -> bool:
    """Tell whether descriptors that may be this request's are in flight: in a Unix socket of a user who had it."""
    if not holdings.in_flight:
        return False
    users = request.find_users(holdings)
    return any(users & holding for holding in holdings.in_flight.values())


def _is_undecided(request: _Request, holdings: Holdings) -> bool:
    """Tell whether another pass may tell more."""
    if not holdings.is_complete or _find_in_flight(request, holdings):
        return True
    return bool(holdings.missed and holdings.missed & request.find_users(holdings).union(_ANYBODY))


def _has_vanished(found: Found) -> bool:
    return isinstance(found, AttestationError) and found.reason is Reason.PROCESS_VANISHED


def _unknown(message: str, error: BaseException | None) -> AttestationError:
    failure = AttestationError(message, reason=Reason.HOLDERS_UNKNOWN)
    failure.__cause__ = error
    return failure
