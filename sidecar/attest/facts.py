"""What attestation yields: the attested program with its process, or the reason why there is none.

Pure, but for the descriptors of the memory that an execution keeps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import msgspec

from shared.model.errors import TouchmarkError
from shared.model.identity.program import Program
from shared.model.policy.decision import Origin
from shared.model.policy.reasons import Reason
from sidecar.attest.memory import Memory

# What a CA takes of a path (ca/evidence/process.py).
MAX_SHOWN_CHARACTERS: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFacts:
    """One process as decisions show it: evidence for people.

    Attributes:
        pid: in the sidecar's own PID namespace.
        start_time: clock ticks after boot, ``proc(5)``; together with ``pid`` it is unique.
        uid: the real user ID.
        path: the link of ``/proc/<pid>/exe``; it ends with `` (deleted)`` when the file has lost its name. It may hold
            any character, and bytes that are none (``os.fsdecode``): outside attestation ``shown_path`` is used.
    """

    pid: int
    start_time: int
    uid: int
    path: str

    @property
    def shown_path(self) -> str:
        """The path for records, messages and the CA."""
        return show_path(self.path)


def show_path(path: str) -> str:
    """Return a path as people and the CA get it: what isn't printable as escapes, the end of what is too long."""
    if not path.isprintable():
        path = "".join(each if each.isprintable() else _escape(each) for each in path)
    return path if len(path) <= MAX_SHOWN_CHARACTERS else f"...{path[3 - MAX_SHOWN_CHARACTERS :]}"


def _escape(character: str) -> str:
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # A byte that isn't UTF-8, as os.fsdecode reads it.
        return f"\\x{number & 0xFF:02x}"
    return character.encode("unicode_escape").decode("ascii")


class Execution(msgspec.Struct, frozen=True):
    """One ``execve`` of one process: what later looks compare. Not keyword-only: one is built for every connection.

    Attributes:
        pid, start_time: of the process.
        device, file: of the executable: its device and inode.
        code, stack, arguments: addresses as they were when it was measured; a process can move them.
        memory: that it has had since the ``execve``, which tells whether it still runs it. Two measurements of one
            ``execve`` are two executions. None proves nothing.
    """

    pid: int
    start_time: int
    device: int
    file: int
    code: int
    stack: int
    arguments: int
    memory: Memory | None = None

    def is_current(self) -> bool:
        """Tell whether the process still runs what was measured, under the name of the same file; a few microseconds.

        Raises:
            ProcessLookupError: it has ended.
            OSError: it mayn't be looked at.
        """
        return self.memory is not None and self.memory.has_executable(self.device, self.file)

    def is_fork_of(self, other: Execution) -> bool:
        """Tell whether both processes came from one ``execve``: they run the same program, whatever their arguments.

        A process can move the addresses that are compared (PR_SET_MM). What it gains is that its main script counts as
        the other's, which it may claim anyway; not that another file does.
        """
        return (self.device, self.file, self.code, self.stack) == (other.device, other.file, other.code, other.stack)


class Attestation(msgspec.Struct, frozen=True, kw_only=True):
    """A socket, the first process found to hold it, and the program that this process runs *now*.

    It doesn't say that no other process holds the socket: that is ``Attestor.check_holders``.

    Attributes:
        inode: of the socket, as in ``/proc/<pid>/fd``.
        cookie: the kernel's number of the socket, never reused.
        execution: the ``execve`` of that process that was measured.
        origin: where the process came from when it was measured.
        others: inodes of the further listeners on the same destination, which run the same program.
        uid: who owns the socket; -1 where that isn't known.
    """

    program: Program
    process: ProcessFacts
    inode: int
    cookie: int
    execution: Execution
    origin: Origin = Origin.UNKNOWN
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
