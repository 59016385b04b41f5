"""Whether a program made its socket itself, or may have been given it through ``execve``. Does I/O on ``/proc``.

Whoever starts a program can leave it a socket of its own, and go on using it in a system call or an io_uring request
that no file of ``/proc`` shows. ``execve`` closes every descriptor that is close-on-exec. So one that is came by the
program's own ``socket``, ``accept4``, ``fcntl`` or ``recvmsg``, if each one of the same socket is.

What it doesn't prove: that the program didn't itself mark what it was given (libsystemd marks the sockets of
``LISTEN_FDS``), or take it over a Unix socket; that no supervisor of a seccomp filter which was installed before put it
there (``SECCOMP_IOCTL_NOTIF_ADDFD``).
"""

from __future__ import annotations

import os

from shared.model.policy.reasons import Reason
from sidecar.attest.facts import Attestation, AttestationError, Execution
from sidecar.attest.holding.tables import MAX_FDINFO_BYTES, HiddenError, read_fdinfo, read_table
from sidecar.attest.process_text import ProcessTextError, parse_flags

_MAX_DESCRIPTORS = 1 << 22
_NO_RANDOMIZE = 0x0040000  # linux/personality.h, ADDR_NO_RANDOMIZE


def refuse_given(attestation: Attestation, listener: Execution | None = None, *, proc: str = "/proc") -> None:
    """Refuse a socket that the process may have been given by who started its program.

    Arguments:
        attestation: of a socket that dialled, or was accepted.
        listener: of an accepted socket, what listened when it was dialled: the socket is younger than that ``execve``.

    Raises:
        AttestationError: it may have been given, or the process has let go of it: others may hold it
            (``socket_not_own``); the process has ended or executed another program (``process_vanished``).
    """
    execution, process = attestation.execution, attestation.process
    if listener is not None and execution == listener:
        return
    try:
        if listener is not None and execution.is_fork_of(listener) and _is_randomised(execution.pid, proc):
            flags = [os.O_CLOEXEC]
        else:
            flags = _read_flags(execution.pid, attestation.inode, proc)
        # What was read before this is about the ``execve`` that was measured.
        is_there = execution.is_current()
    except ProcessLookupError:
        is_there = False
    except (OSError, HiddenError, ProcessTextError) as error:
        message = f"who made the socket of process {process.pid} can't be told"
        raise AttestationError(message, reason=Reason.SOCKET_NOT_OWN, process=process) from error
    if not is_there:
        message = f"process {process.pid} has ended or executed another program"
        raise AttestationError(message, reason=Reason.PROCESS_VANISHED, process=process)
    if not flags:
        message = f"process {process.pid} has let go of the socket: who made it can't be told any more"
        raise AttestationError(message, reason=Reason.SOCKET_NOT_OWN, process=process)
    if not all(each & os.O_CLOEXEC for each in flags):
        message = f"the socket of process {process.pid} isn't close-on-exec: another program may have made it"
        raise AttestationError(message, reason=Reason.SOCKET_NOT_OWN, process=process)


def _read_flags(pid: int, inode: int, proc: str) -> list[int]:
    """Read the flags of each descriptor of a socket.

    The whole table is read: a copy that is close-on-exec (``F_DUPFD_CLOEXEC``) may lie beside the one that isn't.
    """
    table = read_table(pid, str(pid), _MAX_DESCRIPTORS, proc)
    names = [descriptor for each, descriptor in table.sockets if each == inode]
    texts = [read_fdinfo(str(pid), str(name), MAX_FDINFO_BYTES, proc) for name in names]
    return [parse_flags(text) for text in texts if text]  # Without those that were closed since.


def _is_randomised(pid: int, proc: str) -> bool:
    """Tell whether the addresses by which forks are known were drawn at random: then no other ``execve`` has them."""
    try:
        return _read_number(f"{proc}/sys/kernel/randomize_va_space", 10) > 0 and not (
            _read_number(f"{proc}/{pid}/personality", 16) & _NO_RANDOMIZE
        )
    except (OSError, ValueError):
        return False


def _read_number(path: str, base: int) -> int:
    with open(path, "rb", buffering=0) as file:
        return int(file.read(16), base)
