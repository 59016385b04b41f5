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
# Fixed numbers of the first namespaces: include/uapi/linux/nsfs.h (NET_NS_INIT_INO only since Linux 6.18).
_FIRST_NETWORK_NAMESPACE = 0xEFFFFFF9
_WHOLE_UID_MAP = ["0", "0", "4294967295"]


def install_redirect(rules: RedirectRules) -> None:
    """Put the table into this network namespace, in place of an older one.

    Raises:
        MachineError: this is the host's network namespace, ``nft`` is missing, or the kernel refuses.
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
        raise MachineError(
            f"nft refused the redirect: {message}", hint="it needs NET_ADMIN in a network namespace of its own"
        )


def refuse_host_namespace() -> None:
    """Return when this network namespace is not the host's.

    Raises:
        MachineError: it is, or nobody can tell.

    What this does *not* verify: a container with the host's network and its own PID namespace, before Linux 6.18.
    """
    hint = "run the sidecar in a network namespace of its own, or with `capture: listeners`"
    try:
        own = os.stat("/proc/self/ns/net")
        if own.st_ino == _FIRST_NETWORK_NAMESPACE:
            raise MachineError("capture by redirect is refused in the host's network namespace", hint=hint)
        with open("/proc/self/uid_map", encoding="ascii") as file:
            is_whole_machine = file.read().split() == _WHOLE_UID_MAP
    except OSError as error:
        raise MachineError(f"can't tell which network namespace this is: {error.strerror}", hint=hint) from error
    if _kernel_release() >= (6, 18):
        return  # Had it been the first one, its number would have said so.
    try:
        first = os.stat("/proc/1/ns/net")
    except PermissionError as error:
        if not is_whole_machine:
            return  # In a user namespace the kernel itself keeps us from the host's network.
        raise MachineError("can't tell whether this is the host's network namespace", hint=hint) from error
    except OSError as error:
        raise MachineError(f"can't tell which network namespace this is: {error.strerror}", hint=hint) from error
    if (own.st_dev, own.st_ino) == (first.st_dev, first.st_ino):
        raise MachineError("capture by redirect is refused in the host's network namespace", hint=hint)


def _kernel_release() -> tuple[int, int]:
    match = re.match(r"([0-9]+)\.([0-9]+)", os.uname().release)
    return (int(match[1]), int(match[2])) if match else (0, 0)
