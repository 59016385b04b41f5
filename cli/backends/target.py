"""Where a verb finds its CA: on this machine by its admin socket, or in a cluster by a kubeconfig. Pure.

Belongs here: the value and the choice. Doesn't: the command line's options (``cli/commands/options.py``), or opening it
(``session.py``).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from shared.model.errors import InputError
from shared.model.kubernetes.contract import SYSTEM_NAMESPACE

_COMMAND: Final = re.compile(r"`(touchmark [^`]+)`")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where the CA is.

    Attributes:
        in_cluster: in a Kubernetes cluster; the admin socket is then unused. Otherwise on this machine, and
            the other attributes are unused.
        admin_socket: None: where ``touchmark ca serve`` puts it.
        context: a context of the kubeconfig; empty: its current one.
        kubeconfig: files as the variable KUBECONFIG names them, separated by colons; empty: ``~/.kube/config``.
        system_namespace: the namespace in which the CA runs.
    """

    admin_socket: Path | None = None
    in_cluster: bool = False
    context: str = ""
    kubeconfig: str = ""
    system_namespace: str = SYSTEM_NAMESPACE


def write_options(target: Target) -> str:
    """Return what a command line needs to reach the same CA, quoted for a shell; empty: nothing."""
    if not target.in_cluster:
        return shlex.join(["--admin-socket", str(target.admin_socket)]) if target.admin_socket is not None else ""
    words = ["-k"]
    if target.context:
        words += ["--context", target.context]
    if target.kubeconfig:
        words += ["--kubeconfig", target.kubeconfig]
    if target.system_namespace != SYSTEM_NAMESPACE:
        words += ["--system-namespace", target.system_namespace]
    return shlex.join(words)


def write_shell_options(target: Target, environment: Mapping[str, str]) -> str:
    """Return the same for a command that is pasted where this one ran: without what its environment says already."""
    if target.kubeconfig == environment.get("KUBECONFIG"):
        target = replace(target, kubeconfig="")
    if str(target.admin_socket) == environment.get("TOUCHMARK_ADMIN_SOCKET"):
        target = replace(target, admin_socket=None)
    return write_options(target)


def add_options(command: str, target_options: str) -> str:
    """Return a command that reaches the same CA.

    Arguments:
        target_options: what ``write_options`` wrote; empty: nothing is needed.
    """
    return f"{command} {target_options}" if target_options else command


def complete_commands(text: str, target_options: str) -> str:
    """Return a text of the CA's, which doesn't know how it was reached, with options at the commands in backquotes."""
    return _COMMAND.sub(lambda found: f"`{add_options(found[1], target_options)}`", text)


def choose_target(
    *,
    typed: frozenset[str],
    kubernetes: bool,
    context: str,
    kubeconfig: str,
    system_namespace: str,
    admin_socket: Path | None,
) -> Target:
    """Choose between this machine and a cluster.

    Arguments:
        typed: the names of those given on the command line: they win over the environment.

    Raises:
        InputError: the command line names both.
    """
    for_cluster = typed & {"kubernetes", "context", "kubeconfig", "system_namespace"}
    if for_cluster and "admin_socket" in typed:
        option = min(for_cluster).replace("_", "-")
        raise InputError(
            f"--admin-socket and --{option} can't be combined", hint="the CA is either on this machine or in a cluster"
        )
    if for_cluster or (kubernetes and "admin_socket" not in typed):
        return Target(in_cluster=True, context=context, kubeconfig=kubeconfig, system_namespace=system_namespace)
    return Target(admin_socket=admin_socket)
