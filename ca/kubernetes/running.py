"""What a CA in a cluster runs besides: the API server's client, the watches, and the parts that plug in here. I/O.

Belongs here: what starts and stops, in which order. Doesn't: what any of it does.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from ca.kubernetes.client import ClusterClient
from ca.kubernetes.leading import Leading, run_leading
from ca.services import Services
from shared.runtime.tasks import Tasks


@dataclass(slots=True, kw_only=True)
class Cluster:
    """The cluster as the CA's other parts see it: ``services.cluster``.

    Attributes:
        client: to the API server, as the CA's own service account.
        tasks: where further parts spawn what runs as long as the cluster does.
        leading: the policy objects, and whether this replica leads.
    """

    client: ClusterClient
    tasks: Tasks
    leading: Leading | None = None


@contextlib.asynccontextmanager
async def run_cluster(services: Services, tasks: Tasks) -> AsyncIterator[Cluster]:
    """Run everything of the cluster for as long as the context lasts.

    Raises:
        InputError: there is no usable configuration to reach an API server with. An API server that doesn't answer is
            no error: the watches go on trying, and ``/readyz`` says so.
    """
    configuration = services.configuration
    async with contextlib.AsyncExitStack() as stack:
        client = await ClusterClient.open(configuration.kubeconfig)
        stack.push_async_callback(client.close)
        cluster = Cluster(client=client, tasks=tasks)
        services.cluster = cluster
        # Parts plug in here, each an async context manager ``run_…(services, cluster)`` that returns once it runs:
        # policy objects and the Lease, then the webhook and the trust ConfigMaps.
        cluster.leading = await stack.enter_async_context(run_leading(services, client))
        yield cluster
