"""What this machine offers: programs, kernel interfaces, permissions. Leaves no changes behind.

Belongs here: facts that ``doctor`` shows and that the demo chooses by. Doesn't: the CA's state.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

from cli.text.findings import Finding

_NETLINK_SOCK_DIAG: Final = 4  # linux/netlink.h
_CAP_NET_ADMIN: Final = 12  # linux/capability.h
_CAP_SYS_PTRACE: Final = 19
_MIN_DESCRIPTORS: Final = 4096
_PROBE_TIMEOUT_S: Final = 30
_ENGINE: Final = "sidecar.native._loop"
_SIDECAR_UID: Final = 1337  # The default of the sidecar's `redirect: {uid: …}`.
# What an ordinary user's demo needs: it is root there, and sees no process of the same user outside. Nobody inside may
# inspect such a one, so that explicit mode would refuse each connection of that user (`holders_unknown`).
USER_NAMESPACE: Final = ("-Urnm", "--pid", "--fork", "--mount-proc")
SYSTEM_PATH: Final = ":/usr/local/sbin:/usr/sbin:/sbin"


def find_program(name: str) -> str | None:
    """Return the path of a program, looking in the system's directories that a user's PATH leaves out, too."""
    return shutil.which(name, path=os.environ.get("PATH", "") + SYSTEM_PATH)


def has_user_namespaces() -> bool:
    """Return whether an ordinary user may make namespaces of its own for networks, mounts and processes."""
    unshare = find_program("unshare")
    if unshare is None:
        return False
    command = [unshare, *USER_NAMESPACE, "sh", "-c", "mount -t tmpfs tmpfs /run"]
    try:
        return subprocess.run(command, capture_output=True, timeout=_PROBE_TIMEOUT_S, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def has_capability(number: int) -> bool:
    """Return whether this process holds a capability effectively (capabilities(7), ``CapEff`` of proc(5))."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> number & 1)
    return False


def is_sidecar_user_mapped(uid_map: Path = Path("/proc/self/uid_map")) -> bool:
    """Return whether the user that a capturing sidecar becomes exists in this user namespace (user_namespaces(7))."""
    ranges = [[int(number) for number in line.split()] for line in uid_map.read_text(encoding="ascii").splitlines()]
    return any(first <= _SIDECAR_UID < first + count for first, _, count in ranges)


def can_make_namespaces() -> bool:
    """Return whether this process may make network namespaces by ``ip netns`` (root with CAP_SYS_ADMIN does)."""
    ip = find_program("ip")
    if ip is None or os.geteuid() != 0 or not has_capability(_CAP_NET_ADMIN):
        return False
    name = f"tm-probe-{os.getpid()}"
    try:
        made = subprocess.run([ip, "netns", "add", name], capture_output=True, timeout=_PROBE_TIMEOUT_S, check=False)
        subprocess.run([ip, "netns", "del", name], capture_output=True, timeout=_PROBE_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return made.returncode == 0


def examine_machine() -> list[Finding]:
    """Return what this machine offers, most basic first."""
    return [
        _examine_python(),
        _examine_engine(),
        _examine_kernel(),
        _examine_sock_diag(),
        *_examine_programs(),
        *_examine_rights(),
    ]


def _examine_python() -> Finding:
    is_well = sys.version_info >= (3, 11)
    return Finding(
        subject="Python",
        is_well=is_well,
        observation=platform.python_version(),
        hint="" if is_well else "Touchmark needs 3.11 or newer",
    )


def _examine_engine() -> Finding:
    """The sidecar isn't imported here: what it would load is looked for."""
    is_built = importlib.util.find_spec(_ENGINE) is not None
    return Finding(
        subject="sidecar's engine",
        is_well=is_built,
        is_optional=True,
        observation="native: what is compiled moves bytes and looks at processes"
        if is_built
        else "Python: the compiled loop isn't built",
        hint="" if is_built else "apt install gcc libc6-dev python3-dev; then make setup, or install touchmark again",
    )


def _examine_kernel() -> Finding:
    is_linux = sys.platform == "linux"
    return Finding(
        subject="kernel",
        is_well=is_linux,
        observation=f"{platform.system()} {platform.release()}",
        hint="" if is_linux else "the data path needs Linux",
    )


def _examine_sock_diag() -> Finding:
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG):
            return Finding(subject="sock_diag", is_well=True, observation="available; connections can be attested")
    except (OSError, AttributeError) as error:
        return Finding(
            subject="sock_diag",
            is_well=False,
            observation=f"not available ({error})",
            hint="attestation needs the kernel option INET_DIAG (module inet_diag, tcp_diag)",
        )


def _examine_programs() -> list[Finding]:
    wanted = (
        ("nft", "nftables", "capture by redirect"),
        ("ip", "iproute2", "the demo's network namespaces"),
        ("curl", "curl", "the demo's client"),
        ("unshare", "util-linux", "the demo as an ordinary user"),
    )
    findings = []
    for name, package, purpose in wanted:
        path = find_program(name)
        findings.append(
            Finding(
                subject=name,
                is_well=path is not None,
                is_optional=True,
                observation=path or f"not found; needed for {purpose}",
                hint="" if path else f"apt install {package}",
            )
        )
    return findings


def _examine_rights() -> list[Finding]:
    has_ptrace = has_capability(_CAP_SYS_PTRACE)
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    is_enough = descriptors == resource.RLIM_INFINITY or descriptors >= _MIN_DESCRIPTORS
    findings = [
        Finding(
            subject="other users' processes",
            is_well=has_ptrace,
            is_optional=True,
            observation="can be attested" if has_ptrace else "can't be attested: no CAP_SYS_PTRACE here",
            hint="" if has_ptrace else "not needed if the application runs as the sidecar's own user",
        ),
        Finding(
            subject="open files",
            is_well=is_enough,
            observation=f"at most {'unlimited' if descriptors == resource.RLIM_INFINITY else descriptors}",
            hint="" if is_enough else f"raise `ulimit -Hn` to {_MIN_DESCRIPTORS} or more",
        ),
    ]
    if os.geteuid() != 0:
        works = has_user_namespaces()
        findings.append(
            Finding(
                subject="user namespaces",
                is_well=works,
                is_optional=True,
                observation="available; capture can be tried without root" if works else "not allowed for this user",
                hint="" if works else "the demo uses explicit listeners on loopback instead",
            )
        )
    return findings
