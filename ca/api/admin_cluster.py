"""Admin endpoint of what the CA sees of its cluster. I/O: at most one question to the API server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from aiohttp import web

from ca.api.answers import answer, check_query
from ca.services import Services
from shared.model import admin
from shared.model.errors import NotFoundError, TouchmarkError

if TYPE_CHECKING:  # Outside a cluster its client library is never loaded.
    from ca.kubernetes.pods import PodRecord
    from ca.kubernetes.running import Cluster

VERSION_DEADLINE_S: Final = 3.0


class ClusterAdmin:
    """The handler."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def routes(self) -> list[web.RouteDef]:
        """Return the route."""
        return [web.get("/v1/cluster", self.cluster)]

    async def cluster(self, request: web.Request) -> web.Response:
        """Answer what is watched, how pods stand, and who was refused."""
        check_query(request)
        cluster = self._services.cluster
        if cluster is None:
            raise NotFoundError("this CA works outside a cluster", hint="it was started without --kubernetes")
        try:
            version = (await cluster.client.version(deadline_s=VERSION_DEADLINE_S)).git_version
        except TouchmarkError:
            version = ""  # The watches say what is wrong.
        return answer(self._describe(cluster, version))

    def _describe(self, cluster: Cluster, version: str) -> admin.ClusterStatus:
        hub = self._services.hub
        totals: Counter[str] = Counter()
        wanted: Counter[str] = Counter()
        injected: Counter[str] = Counter()
        connected: Counter[str] = Counter()
        missing: list[PodRecord] = []
        unfit: list[PodRecord] = []
        for pod in cluster.pods:
            is_wanted = cluster.namespaces.is_wanted(pod)
            totals[pod.namespace] += 1
            wanted[pod.namespace] += is_wanted
            injected[pod.namespace] += pod.has_sidecar
            session = hub.get(pod.instance) if pod.has_sidecar else None
            connected[pod.namespace] += session is not None and session.pod_uid == pod.uid
            if is_wanted and not pod.has_sidecar:
                missing.append(pod)
            if pod.has_sidecar and pod.fault:
                unfit.append(pod)
        names = sorted({*totals, *cluster.namespaces.list_labelled()})
        return admin.ClusterStatus(
            server_version=version,
            clock_skew_s=cluster.client.clock_skew_s,
            sidecar_images=self._services.configuration.sidecar_images,
            watches=tuple(cluster.watches[name].describe() for name in sorted(cluster.watches)),
            namespaces=tuple(
                admin.ClusterNamespace(
                    namespace=name,
                    is_labelled=cluster.namespaces.is_labelled(name),
                    pods=totals[name],
                    wanted=wanted[name],
                    injected=injected[name],
                    connected=connected[name],
                )
                for name in names
            ),
            services=len(cluster.services),
            not_injected=_view(missing),
            unfit=_view(unfit),
            refused=cluster.refusals.list_newest(),
            refused_total=cluster.refusals.total,
        )


def _view(pods: Iterable[PodRecord]) -> tuple[admin.PodView, ...]:
    chosen = sorted(pods, key=lambda pod: (pod.namespace, pod.name))[: admin.MAX_PODS_SHOWN]
    return tuple(
        admin.PodView(
            namespace=pod.namespace,
            name=pod.name,
            service_account=pod.service_account,
            node=pod.node,
            message=pod.fault,
        )
        for pod in chosen
    )
