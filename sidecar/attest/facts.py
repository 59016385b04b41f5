"""What attestation yields: the attested program with its process, or the reason why there is none. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import msgspec

from shared.model.errors import TouchmarkError
from shared.model.identity.program import Program
from shared.model.policy.reasons import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFacts:
    """One process as decisions show it: evidence for people.

    Attributes:
        pid: in the sidecar's own PID namespace.
        start_time: clock ticks after boot, ``proc(5)``; together with ``pid`` it is unique.
        uid: the real user ID.
        path: the link of ``/proc/<pid>/exe``; it ends with `` (deleted)`` when the file has lost its name.
    """

    pid: int
    start_time: int
    uid: int
    path: str


class Execution(msgspec.Struct, frozen=True):
    """One ``execve`` of one process: what later looks compare. Not keyword-only: one is built for every connection.

    Attributes:
        pid, start_time: of the process.
        device, file: of the executable: its device and inode.
        code, stack, arguments: addresses drawn at ``execve``; all 0 without the right to inspect the process.
    """

    pid: int
    start_time: int
    device: int
    file: int
    code: int
    stack: int
    arguments: int

    def is_fork_of(self, other: Execution) -> bool:
        """Tell whether both processes came from one ``execve``: they run the same program, whatever their arguments."""
        return (self.device, self.file, self.code, self.stack, self.arguments) == (
            other.device, other.file, other.code, other.stack, other.arguments,
        )  # fmt: skip


class Attestation(msgspec.Struct, frozen=True, kw_only=True):
    """A socket, the first process found to hold it, and the program that this process runs *now*.

    It doesn't say that no other process holds the socket: that is ``Attestor.check_holders``.

    Attributes:
        inode: of the socket, as in ``/proc/<pid>/fd``.
        cookie: the kernel's number of the socket, never reused.
        execution: the ``execve`` of that process that was measured.
        others: inodes of the further listeners on the same destination, which run the same program.
        uid: who owns the socket; -1 where that isn't known.
    """

    program: Program
    process: ProcessFacts
    inode: int
    cookie: int
    execution: Execution
    others: tuple[int, ...] = ()
    uid: int = -1


class AttestationError(TouchmarkError):
    """A program couldn't be attested; ``reason`` is what the decision records, ``process`` is who it was about."""

    code: ClassVar[str] = "attestation_failed"
    reason: Reason

    def __init__(self, message: str, *, reason: Reason, process: ProcessFacts | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.process = process
