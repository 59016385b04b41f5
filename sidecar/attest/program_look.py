"""Whether attested processes still run what was attested: a quick look at each, again and again, on the event loop.

Belongs here: the looks and the descriptors that make them quick (about 10 µs each). Doesn't: what follows for
its connections (``sidecar/runtime/live_checks.py``), or who else holds a socket (``holder_check.py``).
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Sequence

from shared.model.policy.reasons import Reason
from sidecar.attest.facts import Attestation, AttestationError, Execution
from sidecar.attest.process_text import ProcessTextError, parse_stat

# A pass that takes longer goes on at the next one: the event loop has other work.
_MAX_PASS_S = 0.002
# Beyond it descriptors are opened for each look, which costs three times as much.
_MAX_KEPT = 1_024
_STAT_BYTES = 2_048
_GONE = frozenset((errno.ENOENT, errno.ESRCH))


class ProgramLooks:
    """Belongs to the event loop's thread.

    Arguments:
        proc: where ``proc(5)`` is mounted.
    """

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc
        self._kept: dict[Execution, tuple[int, int]] = {}
        self._next = 0

    def close(self) -> None:
        """Close every descriptor."""
        for execution in list(self._kept):
            self._give_up(execution)

    def look_again(self, attestations: Sequence[Attestation]) -> Iterator[tuple[Attestation, AttestationError]]:
        """Look at each process, as far as the time for one pass allows; the next pass goes on from there.

        Yields:
            who runs another program now (``program_changed``), or can't be inspected any more.
        """
        current = {each.execution for each in attestations}
        for execution in [each for each in self._kept if each not in current]:
            self._give_up(execution)
        deadline = time.perf_counter() + _MAX_PASS_S
        start = self._next if self._next < len(attestations) else 0
        self._next = 0
        for number, attestation in enumerate((*attestations[start:], *attestations[:start])):
            if number and time.perf_counter() > deadline:
                self._next = (start + number) % len(attestations)
                return
            try:
                self._look(attestation.execution)
            except ProcessLookupError:
                self._give_up(attestation.execution)
            except (OSError, ProcessTextError) as error:
                yield attestation, self._explain(attestation, error)

    def _look(self, execution: Execution) -> None:
        """Compare the process with its attested execution.

        Raises:
            ProcessLookupError: the process has ended.
            OSError: it can't be inspected.
            ProcessTextError: it executed another program.
        """
        directory, stat = self._kept.get(execution) or self._open(execution)
        try:
            try:
                file = os.stat("exe", dir_fd=directory)
                image = parse_stat(os.pread(stat, _STAT_BYTES, 0))
            except OSError as error:
                if error.errno in _GONE:
                    raise ProcessLookupError from error
                raise
        finally:
            if execution not in self._kept:
                os.close(directory)
                os.close(stat)
        if image.start_time != execution.start_time:
            raise ProcessLookupError
        current = (file.st_dev, file.st_ino, image.code, image.stack, image.arguments)
        if current != (execution.device, execution.file, execution.code, execution.stack, execution.arguments):
            raise ProcessTextError("another program")

    def _open(self, execution: Execution) -> tuple[int, int]:
        try:
            directory = os.open(f"{self._proc}/{execution.pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise ProcessLookupError from error
        try:
            stat = os.open("stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
        except BaseException as error:
            os.close(directory)
            if isinstance(error, FileNotFoundError):
                raise ProcessLookupError from error
            raise
        if len(self._kept) < _MAX_KEPT:
            self._kept[execution] = directory, stat
        return directory, stat

    def _give_up(self, execution: Execution) -> None:
        for descriptor in self._kept.pop(execution, ()):
            os.close(descriptor)

    def _explain(self, attestation: Attestation, error: Exception) -> AttestationError:
        process = attestation.process
        if isinstance(error, ProcessTextError):
            message = f"process {process.pid} executed another program"
            return AttestationError(message, reason=Reason.PROGRAM_CHANGED, process=process)
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            return AttestationError("no descriptors left", reason=Reason.OVERLOADED, process=process)
        message = f"process {process.pid} may not be inspected any more"
        return AttestationError(message, reason=Reason.EXECUTABLE_UNREADABLE, process=process)
