"""Admin endpoint of what the CA sees of its cluster. I/O: at most one question to the API server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Final

from aiohttp import web

from ca.api.answers import answer, check_query
from ca.runtime.services import Services
from shared.model.errors import NotFoundError, TouchmarkError
from shared.model.wire import admin

if TYPE_CHECKING:  # Outside a cluster its client library is never loaded.
    from ca.kubernetes.cluster.pods import PodRecord
    from ca.kubernetes.run import Cluster

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
        # From the store: a stream may be open with another replica.
        streams = {s.pod_uid for s in await self._services.store.list_sidecars() if s.connected and s.pod_uid}
        return answer(self._describe(cluster, version, streams))

    def _describe(self, cluster: Cluster, version: str, streams: Collection[str]) -> admin.ClusterStatus:
        leading = cluster.leading
        watches = [*cluster.watches.values(), *(leading.watches if leading is not None else ())]
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
            connected[pod.namespace] += pod.has_sidecar and pod.uid in streams
            if is_wanted and not pod.has_sidecar:
                missing.append(pod)
            if pod.has_sidecar and pod.fault:
                unfit.append(pod)
        names = sorted({*totals, *cluster.namespaces.list_labelled()})
        return admin.ClusterStatus(
            server_version=version,
            clock_skew_s=cluster.client.clock_skew_s,
            sidecar_images=self._services.configuration.sidecar_images,
            watches=tuple(watch.describe() for watch in sorted(watches, key=lambda watch: watch.name)),
            leader=leading.leadership.holder if leading is not None else "",
            is_leader=self._services.is_leader,
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
