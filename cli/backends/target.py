"""Where a verb finds its CA: one value, made in one place from the options that all such verbs share.

Belongs here: the choice between a CA's local socket and a cluster, and the decorator that gives a verb its options.
Doesn't: talking to either (``conversation.py``, ``cluster/``). Reads the environment; opens nothing.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import typer

from cli.commands import options
from shared.model.errors import InputError
from shared.model.kubernetes.contract import SYSTEM_NAMESPACE

KUBECONFIG_VARIABLE = "KUBECONFIG"
_CONTEXT = "typer_context"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Where the CA is.

    Attributes:
        in_cluster: in a Kubernetes cluster; the admin socket then means nothing. Else on this machine, and the rest
            means nothing.
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


def takes_where(verb: Callable[..., T]) -> Callable[..., T]:
    """Give a verb the shared options in the place of its keyword argument ``where``, which is made from them."""
    signature = inspect.signature(verb, eval_str=True)
    own = [parameter for name, parameter in signature.parameters.items() if name != "where"]
    shared = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation, default=default)
        for name, annotation, default in (
            (_CONTEXT, typer.Context, None),
            ("kubernetes", options.Kubernetes, False),
            ("context", options.KubeContext, ""),
            ("kubeconfig", options.Kubeconfig, ""),
            ("system_namespace", options.SystemNamespace, SYSTEM_NAMESPACE),
            ("admin_socket", options.AdminSocket, None),
        )
    ]

    @functools.wraps(verb)
    def run(*arguments: Any, **named: Any) -> T:
        context: typer.Context = named.pop(_CONTEXT)
        given = {parameter.name: named.pop(parameter.name) for parameter in shared[1:]}
        where = choose(typed=frozenset(name for name in given if _is_typed(context, name)), **given)
        return verb(*arguments, **named, where=where)

    run.__signature__ = signature.replace(parameters=[*own, *shared])  # type: ignore[attr-defined]  # PEP 362.
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *shared]}
    return run


def choose(
    *,
    typed: frozenset[str],
    kubernetes: bool,
    context: str,
    kubeconfig: str,
    system_namespace: str,
    admin_socket: Path | None,
) -> Where:
    """Choose between this machine and a cluster.

    Arguments:
        typed: the names of those that stand on the command line: they win over the environment's.

    Raises:
        InputError: the command line names both.
    """
    for_cluster = typed & {"kubernetes", "context", "kubeconfig", "system_namespace"}
    if for_cluster and "admin_socket" in typed:
        option = min(for_cluster).replace("_", "-")
        raise InputError(
            f"--admin-socket and --{option} exclude each other", hint="the CA is on this machine or in a cluster"
        )
    if for_cluster or (kubernetes and "admin_socket" not in typed):
        return Where(in_cluster=True, context=context, kubeconfig=kubeconfig, system_namespace=system_namespace)
    return Where(admin_socket=admin_socket)


def list_kubeconfig_files(named: str = "") -> list[Path]:
    """Return the kubeconfig's files that are there: those named, or of the environment, or ``~/.kube/config``."""
    text = named or os.environ.get(KUBECONFIG_VARIABLE, "") or "~/.kube/config"
    paths = [Path(os.path.expanduser(part)) for part in text.split(os.pathsep) if part]
    return [path for path in paths if path.is_file()]


def _is_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
