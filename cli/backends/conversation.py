"""Running a verb's conversation with the CA, wherever it is: event loop, client, end. Does I/O."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from cli.backends.admin_client import AdminClient
    from cli.backends.target import Where

T = TypeVar("T")


def talk(where: Where, conversation: Callable[[AdminClient], Awaitable[T]]) -> T:
    """Run one conversation with the CA's admin API to its end and return what it returns."""

    async def run() -> T:
        async with reach_admin(where) as client:
            return await conversation(client)

    return asyncio.run(run())


@asynccontextmanager
async def reach_admin(where: Where) -> AsyncIterator[AdminClient]:
    """Reach the CA's admin API: by its socket, or in a cluster through a port-forward to a CA pod.

    Raises:
        TouchmarkError: the cluster can't be used, or no CA runs there.
    """
    from cli.backends.admin_client import AdminClient

    if not where.in_cluster:
        async with AdminClient(where.admin_socket) as client:
            yield client
        return
    from cli.cluster.connection import connect
    from cli.cluster.port_forward import forward_admin

    async with connect(where) as cluster, forward_admin(cluster, where.system_namespace) as client:
        yield client
