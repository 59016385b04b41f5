"""What each replica of the CA knows only for itself: every ready one is asked, and the answers are merged. Does I/O.

Belongs here: live connections, of which a replica can ask its own sidecars alone. Doesn't: what is in the store, which
any replica answers (``port_forward.forward_admin``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from cli.cluster.ca_pod import find_ready_pods
from cli.cluster.connection import Cluster
from cli.cluster.port_forward import forward_admin_of
from shared.model.errors import TouchmarkError
from shared.model.wire.admin import ConnectionList, ConnectionView

# The sidecars of any more are named as silent.
MAX_REPLICAS: Final = 16


async def list_connections(cluster: Cluster, namespace: str, query: Mapping[str, str], *, limit: int) -> ConnectionList:
    """Return the live connections of the sidecars of every replica that answers.

    Arguments:
        namespace: the CA's own.
        query: of ``GET /v1/connections``.
        limit: connections in all.

    Raises:
        TouchmarkError: the cluster can't be used, or no replica answers; the oldest one's fault.
    """
    pods = (await find_ready_pods(cluster, namespace))[:MAX_REPLICAS]
    found = await asyncio.gather(*(_ask(cluster, namespace, pod, query) for pod in pods))
    answers = [each for each in found if isinstance(each, ConnectionList)]
    if not answers:
        raise next(each for each in found if isinstance(each, TouchmarkError))
    return merge_connections(answers, limit=limit)


async def _ask(cluster: Cluster, namespace: str, pod: str, query: Mapping[str, str]) -> ConnectionList | TouchmarkError:
    try:
        async with forward_admin_of(cluster, namespace, pod) as client:
            return await client.list_connections(query)
    except TouchmarkError as error:
        return error


def merge_connections(answers: Sequence[ConnectionList], *, limit: int) -> ConnectionList:
    """Make one answer of several replicas', at least one. Pure.

    Each names as silent those of its own sidecars that didn't answer, and all that are connected elsewhere. A
    sidecar is silent if all of them name it: this includes the sidecars of a replica that didn't answer. A sidecar
    that moves at this moment may have answered two; its connections are listed once.
    """
    by_sidecar: dict[str, list[ConnectionView]] = {}
    for each in answers:
        mine: dict[str, list[ConnectionView]] = {}
        for view in each.connections:
            mine.setdefault(view.sidecar, []).append(view)
        for sidecar, views in mine.items():
            by_sidecar.setdefault(sidecar, views)
    kept = [view for views in by_sidecar.values() for view in views]
    return ConnectionList(
        connections=tuple(kept[:limit]),
        silent=tuple(sorted(set[str].intersection(*(set(each.silent) for each in answers)))),
        truncated=len(kept) > limit or any(each.truncated for each in answers),
    )
