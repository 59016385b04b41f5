"""All holders of a socket: every other one must run the same program. In passes over all processes, off the loop.

One pass costs about 10 ms for a hundred processes, so it serves everybody who waits, and passes rest in between.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from shared.model.policy.reasons import Reason
from sidecar.attest.facts import Attestation, AttestationError
from sidecar.attest.holders import Holdings, find_holdings, is_holder
from sidecar.attest.measure import Measured, Measuring
from sidecar.attest.process import Process

_MAX_WAITING = 16_384
_REST_FACTOR = 20
_MAX_REST_S = 2.0
_FLIGHT_WAIT_S = 0.05
_MAX_PASSES = 3


@dataclass(slots=True, kw_only=True, eq=False)
class _Request:
    attestation: Attestation
    answer: asyncio.Future[None]


class HolderCheck:
    """Checks sockets for foreign holders.

    Arguments:
        measuring: measures the other holders of a socket.
        workers: threads for the passes.
        own_pid: left out of every pass.
    """

    def __init__(self, measuring: Measuring, workers: Executor, *, own_pid: int) -> None:
        self._measuring = measuring
        self._workers = workers
        self._own_pid = own_pid
        self._waiting: list[_Request] = []
        self._runner: asyncio.Task[None] | None = None

    def close(self) -> None:
        """Stop; who still waits is cancelled."""
        if self._runner is not None:
            self._runner.cancel()
        for request in self._waiting:
            request.answer.cancel()
        self._waiting.clear()

    async def check(self, attestation: Attestation) -> None:
        """Wait for the next pass and its answer.

        Raises:
            AttestationError: ``socket_shared``; ``program_changed``, ``process_traced`` and the like of the attested
                process itself; ``holders_unknown``; ``overloaded`` when too many checks wait.
        """
        if len(self._waiting) >= _MAX_WAITING:
            raise AttestationError("too many holder checks wait", reason=Reason.OVERLOADED)
        loop = asyncio.get_running_loop()
        request = _Request(attestation=attestation, answer=loop.create_future())
        self._waiting.append(request)
        if self._runner is None or self._runner.done():
            self._runner = loop.create_task(self._run(), name="attest-holders")
        await request.answer

    async def _run(self) -> None:
        while self._waiting:
            batch = [request for request in self._waiting if not request.answer.done()]
            self._waiting = []
            started = time.monotonic()
            try:
                await self._serve(batch)
            except Exception as error:  # A pass that failed proves nothing: everybody who waits for it learns so.
                for request in batch:
                    if not request.answer.done():
                        request.answer.set_exception(_unknown(error))
            except asyncio.CancelledError:
                for request in batch:
                    request.answer.cancel()
                raise
            await asyncio.sleep(min(_MAX_REST_S, _REST_FACTOR * (time.monotonic() - started)))

    async def _serve(self, batch: list[_Request]) -> None:
        inodes = {inode for request in batch for inode in (request.attestation.inode, *request.attestation.others)}
        holdings, is_in_flight = await self._look(inodes)
        measured: dict[int, Measured | AttestationError] = {}
        try:
            for request in batch:
                if request.answer.done():
                    continue
                error = await self._judge(request, holdings, measured, is_in_flight=is_in_flight)
                if request.answer.done():
                    continue
                if error is None:
                    request.answer.set_result(None)
                else:
                    request.answer.set_exception(error)
        finally:
            for found in measured.values():
                if isinstance(found, Measured):
                    found.process.close()

    async def _look(self, inodes: set[int]) -> tuple[Holdings, bool]:
        """Look until nothing is in flight, at most three times: a descriptor in flight shows its holder only later.

        Returns:
            All holders seen, and whether descriptors stay in flight.
        """
        loop = asyncio.get_running_loop()
        find = partial(find_holdings, inodes, own_pid=self._own_pid)
        before = await loop.run_in_executor(self._workers, find)
        is_in_flight = bool(before.in_flight)
        for _ in range(_MAX_PASSES - 1):
            if not is_in_flight:
                break
            await asyncio.sleep(_FLIGHT_WAIT_S)
            now = await loop.run_in_executor(self._workers, find)
            holders = {inode: before.holders[inode] | now.holders[inode] for inode in inodes}
            is_complete = before.is_complete and now.is_complete
            stays = before.in_flight & now.in_flight
            is_in_flight = bool(now.in_flight)
            before = Holdings(holders=holders, in_flight=now.in_flight, is_complete=is_complete)
            if stays:
                break
        return before, is_in_flight

    async def _judge(
        self,
        request: _Request,
        holdings: Holdings,
        measured: dict[int, Measured | AttestationError],
        *,
        is_in_flight: bool,
    ) -> AttestationError | None:
        attestation = request.attestation
        holders = [
            (pid, inode)
            for inode in (attestation.inode, *attestation.others)
            for pid in holdings.holders.get(inode, ())
        ]
        for pid, inode in holders:
            found = measured.get(pid)
            if found is None:
                found = await self._measure(pid, inode)
                if not _has_vanished(found):  # To have let go of one socket says nothing about another.
                    measured[pid] = found
            error = _compare(request, pid, found)
            if error is not None:
                return error
        if not holdings.is_complete:
            return _unknown(None)
        if is_in_flight:
            message = "descriptors are in flight in a Unix socket"
            return AttestationError(message, reason=Reason.SOCKET_SHARED, process=attestation.process)
        return None

    async def _measure(self, pid: int, inode: int) -> Measured | AttestationError:
        """Measure a holder; one that doesn't hold the socket any more has vanished.

        A child of the attested program holds the socket between its fork and the ``execve`` that closes it: what runs
        afterwards is no holder.
        """
        try:
            found = await self._measuring.measure(partial(Process, pid), 0)
        except AttestationError as error:
            return error
        loop = asyncio.get_running_loop()
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


def _compare(request: _Request, pid: int, found: Measured | AttestationError) -> AttestationError | None:
    attestation = request.attestation
    is_attested = pid == attestation.process.pid
    if isinstance(found, AttestationError):
        if _has_vanished(found):  # It let go of the socket, or ended: no holder any more.
            return None
        if is_attested:
            return found
        message = f"process {pid} holds the socket as well and can't be attested: {found.message}"
        return AttestationError(message, reason=Reason.SOCKET_SHARED, process=found.process)
    # A fork within the same ``execve`` runs the same program, also where it has rewritten its arguments since.
    if found.program == attestation.program or found.execution.is_fork_of(attestation.execution):
        return None
    if is_attested:
        message = f"process {pid} executed another program: {found.process.facts.path}"
        return AttestationError(message, reason=Reason.PROGRAM_CHANGED, process=found.process.facts)
    message = f"process {pid} holds the socket as well and runs another program"
    return AttestationError(message, reason=Reason.SOCKET_SHARED, process=found.process.facts)


def _has_vanished(found: Measured | AttestationError) -> bool:
    return isinstance(found, AttestationError) and found.reason is Reason.PROCESS_VANISHED


def _unknown(error: BaseException | None) -> AttestationError:
    failure = AttestationError("not every process could be looked at", reason=Reason.HOLDERS_UNKNOWN)
    failure.__cause__ = error
    return failure
