"""Admin endpoint of what the CA sees of its cluster. I/O: the store, and at most one question to the API server."""

from __future__ import annotations

from aiohttp import web

from ca.api.admin.answers import answer, check_query
from ca.kubernetes.view import ClusterView
from ca.store.store import Store


class ClusterAdmin:
    """The handler."""

    def __init__(self, *, store: Store, cluster: ClusterView) -> None:
        self._store = store
        self._cluster = cluster

    def routes(self) -> list[web.RouteDef]:
        """Return the route."""
        return [web.get("/v1/cluster", self.cluster)]

    async def cluster(self, request: web.Request) -> web.Response:
        """Answer what is watched, how pods stand, and who was refused."""
        check_query(request)
        # From the store: a stream may be open with another replica.
        connected = {s.pod_uid for s in await self._store.sidecars.list_all() if s.connected and s.pod_uid}
        return answer(await self._cluster.describe(connected))
