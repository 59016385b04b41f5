"""Gives up root: becomes the sidecar's own user and keeps exactly what attestation needs. In a pod, where it starts as
that user with file capabilities on its interpreter, checks that it has that and nothing more.

CAP_SYS_PTRACE reads another user's ``/proc/<pid>/exe``, CAP_DAC_READ_SEARCH lists its descriptors; CAP_NET_ADMIN stays
only where connections may wait (``redirect.holdConnects``) or sockets get a mark. Nothing else stays, in no set:
programs that this process would start get nothing. Source: ``capabilities(7)``, ``capset(2)``, ``prctl(2)``.
"""

from __future__ import annotations

import ctypes
import os
import struct

from shared.model.errors import MachineError

CAP_DAC_READ_SEARCH = 2
CAP_NET_ADMIN = 12
CAP_SYS_PTRACE = 19
KEPT = (1 << CAP_DAC_READ_SEARCH) | (1 << CAP_SYS_PTRACE)

_NAMES = {CAP_SYS_PTRACE: "SYS_PTRACE", CAP_DAC_READ_SEARCH: "DAC_READ_SEARCH", CAP_NET_ADMIN: "NET_ADMIN"}

_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522
_HEADER = struct.Struct("=Ii")
_DATA = struct.Struct("=6I")

_libc = ctypes.CDLL(None, use_errno=True)


def become_user(uid: int, kept: int = KEPT) -> None:
    """Change from root to ``uid`` (and the group of that number); ``kept`` stays permitted and effective.

    Raises:
        MachineError: a step fails. The process must then end: it may hold more than it should.
    """
    _drop_bounding_set(kept)
    _call("keep capabilities", _libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0))
    try:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise MachineError(f"can't become user {uid}: {error.strerror}") from error
    keep_only(kept)


def keep_what_a_pod_gives(uid: int, kept: int = KEPT) -> None:
    """Check that this process is the sidecar's user and has ``kept`` as effective; give up whatever else there is.

    Raises:
        MachineError: it is root or another user, or a capability is missing; the hint says where to give it.
    """
    if os.geteuid() == 0 or os.getuid() == 0:
        raise MachineError("the sidecar must not run as root in a pod", hint=f"securityContext: runAsUser: {uid}")
    if (os.getuid(), os.geteuid()) != (uid, uid):
        raise MachineError(
            f"the sidecar runs as user {os.getuid()}, and the redirect exempts user {uid}: it would capture itself",
            hint=f"securityContext: runAsUser: {uid}",
        )
    wanted = {number: name for number, name in _NAMES.items() if kept & 1 << number}
    missing = [name for number, name in wanted.items() if not effective() & 1 << number]
    if missing:
        what = "--hold-connects" if missing == [_NAMES[CAP_NET_ADMIN]] else "attestation"
        raise MachineError(
            f"the sidecar lacks the capabilities that {what} needs: {', '.join(missing)}",
            hint=f"securityContext: capabilities: {{drop: [ALL], add: [{', '.join(wanted.values())}]}}, and an image "
            "whose interpreter has them as file capabilities",
        )
    keep_only(kept)


def keep_only(capabilities: int) -> None:
    """Reduce permitted and effective capabilities to those of the given set that are permitted now.

    Raises:
        MachineError: the kernel refuses.
    """
    _call("clear ambient capabilities", _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    kept = capabilities & permitted()
    low, high = kept & 0xFFFFFFFF, kept >> 32
    header = ctypes.create_string_buffer(_HEADER.pack(_CAPABILITY_VERSION_3, 0), _HEADER.size)
    data = ctypes.create_string_buffer(_DATA.pack(low, low, 0, high, high, 0), _DATA.size)
    _call("set capabilities", _libc.capset(header, data))
    _call("forbid new privileges", _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def permitted() -> int:
    """Return this process's permitted capabilities as a bit set."""
    fields = _read_capabilities()
    return fields[1] | fields[4] << 32


def effective() -> int:
    """Return this process's effective capabilities as a bit set."""
    fields = _read_capabilities()
    return fields[0] | fields[3] << 32


def _read_capabilities() -> tuple[int, ...]:
    header = ctypes.create_string_buffer(_HEADER.pack(_CAPABILITY_VERSION_3, 0), _HEADER.size)
    data = ctypes.create_string_buffer(_DATA.size)
    _call("read capabilities", _libc.capget(header, data))
    return _DATA.unpack(data.raw)


def _drop_bounding_set(kept: int) -> None:
    capability = 0
    while _libc.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0) >= 0:
        if not kept & 1 << capability:
            _call("shrink the bounding set", _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0))
        capability += 1


def _call(what: str, result: int) -> None:
    if result != 0:
        raise MachineError(f"can't {what}: {os.strerror(ctypes.get_errno())}")
