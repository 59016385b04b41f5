"""Process → program: its executable (and main script) measured, with everything compared before and after.

The slow path: whatever can block runs in worker threads. What it yields lets the fast path recognise the same
``execve`` of the same process again.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from shared.model.identity.program import NO_MAIN, Program
from shared.model.policy.decision import Origin
from shared.model.policy.reasons import Reason
from sidecar.attest.claimed import refuse_claimed_executable
from sidecar.attest.executable import Executables
from sidecar.attest.facts import Attestation, AttestationError, Execution
from sidecar.attest.interpreter.loader import is_loader
from sidecar.attest.interpreter.main_script import is_interpreter
from sidecar.attest.netlink.sock_diag import KernelSocket
from sidecar.attest.origin import Origins
from sidecar.attest.process import FileKey, Process
from sidecar.attest.script_file import open_main_script

_MAX_DESCRIPTORS = 1_048_576
# The time between two looks at a live connection's program.
_MAX_UNSEEN_S = 0.05


@dataclass(slots=True, kw_only=True)
class Measured:
    """A process, the ``execve`` that was looked at, and the program that it runs.

    Mutable in nothing but the process's kept hints. Its owner closes the process.
    """

    process: Process
    key: FileKey
    program: Program
    execution: Execution
    origin: Origin = Origin.UNKNOWN

    def is_current(self) -> bool:
        """Tell whether the process still runs that ``execve``.

        Raises:
            AttestationError: it is gone.
        """
        return not self.process.has_executed() and self.process.read_executable() == self.key

    def attest(self, found: KernelSocket, others: tuple[int, ...] = ()) -> Attestation:
        """Say that this process holds a socket, as the caller has seen.

        Arguments:
            others: as of ``Attestation``.
        """
        return Attestation(
            program=self.program,
            process=self.process.facts,
            inode=found.inode,
            cookie=found.cookie,
            execution=self.execution,
            origin=self.origin,
            others=others,
            uid=found.uid,
        )


@dataclass(slots=True, kw_only=True)
class Sighting:
    """One complete look at a process: descriptors opened once, everything else is read through them.

    Attributes:
        runs_others: it is an interpreter, or a dynamic loader under whatever name.
        at: ``time.monotonic`` when the look ended.
    """

    process: Process
    executable: int
    key: FileKey
    runs_others: bool
    script: int | None
    script_key: FileKey | None
    at: float

    def close_files(self) -> None:
        """Close the files that it executes."""
        os.close(self.executable)
        if self.script is not None:
            os.close(self.script)

    def close(self) -> None:
        """Close the files and the process."""
        self.close_files()
        self.process.close()


class Measuring:
    """Measures processes.

    Arguments:
        executables: hashes files, each once.
        workers: threads for the looks at ``/proc``.
    """

    def __init__(self, executables: Executables, workers: Executor) -> None:
        self._executables = executables
        self._workers = workers
        self._origins = Origins()

    async def measure(self, find: Callable[[], Process], inode: int) -> Measured:
        """Measure what the process that ``find`` opens runs, and that it holds the socket.

        Must not be cancelled: a worker could still use descriptors that are closed then.

        Arguments:
            find: opens the process; runs in a worker thread.
            inode: of the socket; 0 when it doesn't matter.

        Raises:
            AttestationError: with the reason why there is no answer.
        """
        loop = asyncio.get_running_loop()
        process = await loop.run_in_executor(self._workers, find)
        try:
            sighting = await loop.run_in_executor(self._workers, sight, process, inode)
        except BaseException:
            process.close()
            raise
        return await self.measure_sighting(sighting)

    async def measure_sighting(self, sighting: Sighting) -> Measured:
        """Measure what was sighted, and close the sighting; as for ``measure``.

        Raises:
            AttestationError: with the reason why there is no answer.
        """
        loop, process = asyncio.get_running_loop(), sighting.process
        try:
            try:
                digest = (await self._executables.measure(sighting.executable, sighting.key)).digest
                main = await self._measure_script(sighting)
                origin = await loop.run_in_executor(self._workers, self._compare, sighting)
            finally:
                sighting.close_files()
        except BaseException as error:
            process.close()
            if isinstance(error, AttestationError) and error.process is None:
                raise AttestationError(error.message, reason=error.reason, process=process.facts) from error
            raise
        program = Program(digest=digest, main=main)
        execution = _execution(sighting)
        return Measured(process=process, key=sighting.key, program=program, execution=execution, origin=origin)

    def _compare(self, sighting: Sighting) -> Origin:
        origin = self._origins.read(sighting.process)
        _compare(sighting)
        return origin

    async def _measure_script(self, sighting: Sighting) -> str:
        if not sighting.runs_others:
            return ""
        if sighting.script is None or sighting.script_key is None:
            return NO_MAIN
        try:
            return (await self._executables.measure(sighting.script, sighting.script_key)).digest
        except AttestationError:  # The claim fails, the executable doesn't.
            return NO_MAIN


def sight(process: Process, inode: int) -> Sighting:
    """Look at everything that a measurement needs, once.

    The process holds the socket and runs the file in one moment: the memory that it had when it was opened is in use at
    the look's end. What it does afterwards can't change that.

    Raises:
        AttestationError: it may not be believed, doesn't hold the socket, or has ended; it stays the caller's.
    """
    process.refuse_tracer(all_threads=True)
    executable = process.open_executable()
    script: int | None = None
    try:
        refuse_claimed_executable(process, executable)
        key = FileKey.of(os.fstat(executable))
        runs_others = is_interpreter(process.facts.path) or is_loader(executable)
        if runs_others:
            script = open_main_script(process)
        script_key = None if script is None else FileKey.of(os.fstat(script))
        if inode and not process.find_descriptor(inode, max_descriptors=_MAX_DESCRIPTORS):
            message = f"process {process.pid} let go of the socket before it was looked at"
            raise AttestationError(message, reason=Reason.PROCESS_VANISHED, process=process.facts)
        if process.has_executed():
            raise _changed(process)
    except BaseException:
        os.close(executable)
        if script is not None:
            os.close(script)
        raise
    return Sighting(
        process=process,
        executable=executable,
        key=key,
        runs_others=runs_others,
        script=script,
        script_key=script_key,
        at=time.monotonic(),
    )


def agree(found: list[tuple[Measured, KernelSocket]], port: int) -> Attestation:
    """Attest a port's listeners, which must run one program.

    Raises:
        AttestationError: ``no_listener``, ``listeners_differ``.
    """
    if not found:
        raise AttestationError(f"only the sidecar listens on port {port}", reason=Reason.NO_LISTENER)
    first, listener = found[0]
    for other, _ in found[1:]:
        if other.program != first.program:
            message = f"processes {first.process.pid} and {other.process.pid} listen on port {port} with two programs"
            raise AttestationError(message, reason=Reason.LISTENERS_DIFFER, process=other.process.facts)
    return first.attest(listener, tuple(one.inode for _, one in found[1:]))


def _execution(sighting: Sighting) -> Execution:
    device, file, *_ = sighting.key
    process, image = sighting.process, sighting.process.image
    return Execution(
        process.pid, image.start_time, device, file, image.code, image.stack, image.arguments, process.memory
    )


def _compare(sighting: Sighting) -> None:
    """Compare everything with the first look, while the process is there; one that has just ended was that program.

    Raises:
        AttestationError: it ran another program, is traced, changed its file, or ended too long ago to tell.
    """
    process = sighting.process
    try:
        key, has_executed = process.read_executable(), process.has_executed()
        process.refuse_tracer(all_threads=True)
    except AttestationError:
        # It may have executed something before it ended: as for a live process, for as long as between two looks.
        if process.has_ended() and time.monotonic() - sighting.at <= _MAX_UNSEEN_S:
            return
        raise
    if has_executed or key[:2] != sighting.key[:2]:
        raise _changed(process)
    if key != sighting.key:
        message = f"the executable of process {process.pid} changed while it was attested"
        raise AttestationError(message, reason=Reason.EXECUTABLE_CHANGED, process=process.facts)


def _changed(process: Process) -> AttestationError:
    message = f"process {process.pid} ran another program, or ended, while it was attested"
    return AttestationError(message, reason=Reason.PROCESS_VANISHED, process=process.facts)
