"""Installs the redirect table with the program ``nft``, in this process's network namespace and never in the host's.

Belongs here: the one command and the check before it. Doesn't: the rules (``redirect_table.py``). Blocks: it runs
before the event loop does.
"""

from __future__ import annotations

import os
import re
import subprocess

from shared.model.errors import MachineError
from sidecar.capture.redirect_table import RedirectRules, format_table

_NFT_TIMEOUT_S = 20.0
# Fixed number of the first namespace: include/uapi/linux/nsfs.h (NET_NS_INIT_INO, since Linux 6.18).
_FIRST_NETWORK_NAMESPACE = 0xEFFFFFF9
# net/core/sysctl_net_core.c registers these for the first network namespace only (net_core_table); every namespace has
# somaxconn (netns_core_table), which tells a kernel without them from a /proc/sys that can't be seen.
_OF_THE_FIRST_ONLY = "netdev_max_backlog"
_OF_EVERY_NAMESPACE = "somaxconn"


class RedirectRefusedError(MachineError):
    """The kernel, or ``nft``, takes no such table."""


def install_redirect(rules: RedirectRules) -> None:
    """Put the table into this network namespace, in place of an older one.

    Raises:
        MachineError: this is the host's network namespace, or ``nft`` is missing.
        RedirectRefusedError: the kernel refuses.
    """
    refuse_host_namespace()
    try:
        done = subprocess.run(
            ["nft", "-f", "-"],
            input=format_table(rules),
            text=True,
            capture_output=True,
            timeout=_NFT_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise MachineError("the program `nft` is missing", hint="install nftables") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MachineError(f"nft can't be run: {error}") from error
    if done.returncode != 0:
        message = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[0]
        hint = "it needs NET_ADMIN in a network namespace of its own"
        if rules.holds_connects:
            hint += "; redirect.holdConnects also a kernel with nftables' queue (NFT_QUEUE)"
        raise RedirectRefusedError(f"nft refused the redirect: {message}", hint=hint)


def refuse_host_namespace() -> None:
    """Return when this network namespace is not the host's: the first one's number or its sysctls tell.

    Whose PID 1 is doesn't matter: in a pod with a shared process namespace it is the pod's own pause container.

    Raises:
        MachineError: it is, or that can't be determined.

    What this does *not* verify: that a namespace which isn't the first one isn't shared with somebody else.
    """
    hint = "run the sidecar in a network namespace of its own, or with `capture: listeners`"
    try:
        is_first = os.stat("/proc/self/ns/net").st_ino == _FIRST_NETWORK_NAMESPACE
        if not is_first and _kernel_release() < (6, 18):
            names = os.listdir("/proc/sys/net/core")
            if _OF_EVERY_NAMESPACE not in names:
                raise MachineError("can't tell which network namespace this is: no sysctls of it", hint=hint)
            is_first = _OF_THE_FIRST_ONLY in names
    except OSError as error:
        raise MachineError(f"can't tell which network namespace this is: {error.strerror}", hint=hint) from error
    if is_first:
        raise MachineError("capture by redirect is refused in the host's network namespace", hint=hint)


def _kernel_release() -> tuple[int, int]:
    match = re.match(r"([0-9]+)\.([0-9]+)", os.uname().release)
    return (int(match[1]), int(match[2])) if match else (0, 0)
