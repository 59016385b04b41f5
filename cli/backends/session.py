"""Opening what a verb works with, by its target, and running its work to the end. Does I/O.

Belongs here: the choice between the local CA and a cluster, the event loop, closing. Doesn't: requests. What only one
of both needs is imported when it is chosen: it takes a fifth of a command's time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from cli.admin.client import AdminClient
from cli.backends.base import PolicyBackend
from cli.backends.target import Target
from shared.model.errors import InputError, TouchmarkError

if TYPE_CHECKING:
    from cli.cluster.connection import Cluster
    from cli.cluster.observation.named_ends import NamedEnd

T = TypeVar("T")


def ask_admin(target: Target, work: Callable[[AdminClient], Awaitable[T]]) -> T:
    """Run work on the CA's admin API to its end and return its result."""

    async def run() -> T:
        async with open_admin(target) as client:
            return await work(client)

    return asyncio.run(run())


def work_on_policies(target: Target, work: Callable[[PolicyBackend], Awaitable[T]], *, is_forced: bool = False) -> T:
    """Run work on modes, policies and programs to its end and return its result.

    Arguments:
        is_forced: take over fields that other tools own. Only a cluster's objects have such.
    """

    async def run() -> T:
        async with open_policies(target, is_forced=is_forced) as backend:
            return await work(backend)

    return asyncio.run(run())


def open_cluster(target: Target) -> AbstractAsyncContextManager[Cluster]:
    """Connect to the target's cluster. Raises as ``connect``."""
    from cli.cluster.connection import connect

    return connect(target.kubeconfig, target.context)


async def find_gaps(target: Target, namespace: str, *, since: float) -> tuple[str, ...]:
    """Say what the target's cluster knows that can't have been seen since then; nothing outside one.

    Arguments:
        since: seconds since the epoch.
    """
    if not target.in_cluster:
        return ()
    from cli.cluster.observation import cron_jobs

    try:
        async with open_cluster(target) as cluster:
            return await cron_jobs.find_gaps(cluster, namespace, since=since)
    except TouchmarkError:
        return ()


async def find_named_end(target: Target, text: str, namespace: str) -> NamedEnd | None:
    """Resolve an end of a connection that is written as a pod's or a Service's name; None: it isn't one.

    Arguments:
        namespace: of names without one; empty: none is.

    Raises:
        InputError: there is no cluster, or the name isn't one of one end.
        TouchmarkError: the cluster doesn't know it, or doesn't say.
    """
    from cli.cluster.observation.named_ends import find_end, read_name

    wanted = read_name(text, namespace)
    if wanted is None:
        return None
    if not target.in_cluster:
        raise InputError(f"{wanted} is known to a cluster alone", hint="-k asks the CA in the kubeconfig's cluster")
    async with open_cluster(target) as cluster:
        return await find_end(cluster, wanted)


@asynccontextmanager
async def open_admin(target: Target) -> AsyncIterator[AdminClient]:
    """Open the CA's admin API: by its socket, or in a cluster through a port-forward to a CA pod.

    Raises:
        TouchmarkError: the cluster can't be used, or no CA runs there.
    """
    if target.in_cluster:
        from cli.cluster.port_forward import forward_admin

        async with open_cluster(target) as cluster, forward_admin(cluster, target.system_namespace) as client:
            yield client
    else:
        async with AdminClient(target.admin_socket) as client:
            yield client


@asynccontextmanager
async def open_policies(target: Target, *, is_forced: bool = False) -> AsyncIterator[PolicyBackend]:
    """Open what keeps modes, policies and programs.

    Raises:
        TouchmarkError: the cluster can't be used. The local CA is connected to by its first request.
    """
    if target.in_cluster:
        from cli.backends.cluster import ClusterPolicyBackend

        async with (
            open_cluster(target) as cluster,
            ClusterPolicyBackend(cluster, target.system_namespace, is_forced=is_forced) as backend,
        ):
            yield backend
    else:
        from cli.backends.local import LocalPolicyBackend

        async with open_admin(target) as client:
            yield LocalPolicyBackend(client)
