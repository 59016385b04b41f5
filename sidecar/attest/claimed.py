"""Whether ``/proc/<pid>/exe`` may be believed: a process can make it name or hold something else. Does I/O.

With all capabilities in *some* user namespace, which anyone may make, ``prctl(PR_SET_MM_MAP)`` sets it to any
executable file (kernel/sys.c, ``prctl_set_mm_map``). Belongs here: what such a process can't hide easily. Doesn't: code
that a process has loaded beside its executable (``sidecar/loaded``), which is what a complete forgery comes down to.
"""

from __future__ import annotations

import os
from functools import cache

from shared.model.policy.reasons import Reason
from sidecar.attest.facts import AttestationError
from sidecar.attest.filesystem import shows_other_device
from sidecar.attest.mounts import is_foreign_mount
from sidecar.attest.process import Process


@cache
def read_own_namespace() -> tuple[int, int] | None:
    """Read which user namespace this process is in; None where the kernel has none."""
    try:
        status = os.stat("/proc/self/ns/user")
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def refuse_claimed_executable(process: Process, executable: int) -> None:
    """Refuse a process whose executable may be a mere claim.

    It doesn't verify that the process runs nothing else: one that maps the file it names, in a memory that it shares
    with a child in another user namespace, passes.

    Arguments:
        executable: descriptor of the file that it names.

    Raises:
        AttestationError: it is in another user namespace than the sidecar (``user_namespace_differs``), its code isn't
            that file's, or the file is what another mount namespace makes it (``executable_forged``); or it is gone.
    """
    pid, facts, namespace = process.pid, process.facts, read_own_namespace()
    try:
        own = os.stat("ns/user", dir_fd=process.memory.directory) if namespace else None
        mapping = process.memory.find_mapping(process.image.code)
        is_foreign = is_foreign_mount(process.memory.directory, executable)
    except OSError as error:
        raise process.explain(error) from error
    if own is not None and (own.st_dev, own.st_ino) != namespace:
        message = f"process {pid} is in a user namespace of its own, where it may name any executable"
        raise AttestationError(message, reason=Reason.USER_NAMESPACE_DIFFERS, process=facts)
    if is_foreign:
        message = f"the executable of process {pid} is in a file system that another mount namespace makes up"
        raise AttestationError(message, reason=Reason.EXECUTABLE_FORGED, process=facts)
    status = os.fstat(executable)
    is_same = mapping is not None and (mapping.device, mapping.inode) == (status.st_dev, status.st_ino)
    if mapping is not None and not is_same and shows_other_device(executable):
        is_same = mapping.inode == status.st_ino or mapping.path == os.fsencode(facts.path)
    if mapping is None or not mapping.is_executable or not is_same:
        if process.has_executed() or not process.image.code:  # It has ended, or its ``execve`` is under way.
            message = f"process {pid} has ended, or executes a program just now"
            raise AttestationError(message, reason=Reason.PROCESS_VANISHED, process=facts)
        message = f"process {pid} doesn't run the code of the file that it names as its executable"
        raise AttestationError(message, reason=Reason.EXECUTABLE_FORGED, process=facts)
