"""Admin endpoints about edges and coverage. I/O through the store; joining runs in a worker thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aiohttp import web

from ca.api.admin.answers import answer, check_query, read_flag, read_number
from ca.observation.coverage import cover
from ca.observation.edge_view import join_edges
from ca.observation.judging import judge
from ca.store.edges.edge_log import MAX_REPORTS
from ca.store.edges.tally import HOUR_S
from ca.store.store import Store
from shared.model.identity.identity import check_namespace, parse_workload
from shared.model.policy.decision import Answer
from shared.model.wire import admin

_FAR_S: Final = 1e12
_DAY_S: Final = 86_400.0


class EdgesAdmin:
    """The handlers."""

    def __init__(self, *, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/v1/namespaces/{namespace}/edges", self.edges),
            web.get("/v1/namespaces/{namespace}/coverage", self.coverage),
            web.get("/v1/namespaces/{namespace}/timeline", self.timeline),
        ]

    async def edges(self, request: web.Request) -> web.Response:
        """Answer a page of a namespace's edges."""
        check_query(request, "since", "until", "workload", "denied", "would_deny", "offset", "limit")
        namespace = check_namespace(request.match_info["namespace"])
        now = self._clock()
        since = read_number(request, "since", default=now - _DAY_S, low=0, high=_FAR_S)
        until = read_number(request, "until", default=now + _DAY_S, low=0, high=_FAR_S)
        offset = int(read_number(request, "offset", default=0, low=0, high=1e6))
        limit = int(
            read_number(request, "limit", default=admin.DEFAULT_EDGES_LISTED, low=1, high=admin.MAX_EDGES_LISTED)
        )
        workload = request.query.get("workload", "")
        wanted = str(parse_workload(workload)) if workload else ""
        denied, would_deny = read_flag(request, "denied"), read_flag(request, "would_deny")
        window = await self._store.edges.list_edges(namespace, since=since, until=until)

        def choose(_check: Callable[[], None]) -> list[admin.EdgeView]:
            return [
                edge
                for edge in join_edges(window.edges)
                if (not wanted or wanted in (edge.source.workload, edge.source.listed)
                    or wanted in (edge.destination.workload, edge.destination.listed))
                and (denied is None or denied is any(each.answer is Answer.DENY for each in edge.outcomes))
                and (would_deny is None or would_deny is any(each.would_deny for each in edge.outcomes))
            ]  # fmt: skip

        chosen = await judge(choose)
        return answer(
            admin.EdgeList(
                namespace=namespace,
                edges=tuple(chosen[offset : offset + limit]),
                since=window.since,
                until=min(window.until, now),
                total=len(chosen),
                is_truncated=window.is_truncated,
            )
        )

    async def coverage(self, request: web.Request) -> web.Response:
        """Answer how much of each workload of a namespace was observed."""
        check_query(request, "since")
        namespace = check_namespace(request.match_info["namespace"])
        now = self._clock()
        since = read_number(request, "since", default=now - 7 * _DAY_S, low=0, high=_FAR_S)
        reports = await self._store.edges.list_reports(namespace, since=since)
        sidecars = await self._store.sidecars.list_all()
        workloads = await judge(lambda _: cover(reports, sidecars, namespace=namespace, now=now))
        return answer(
            admin.CoverageList(
                namespace=namespace,
                since=since,
                workloads=tuple(workloads),
                is_truncated=len(reports) >= MAX_REPORTS,
            )
        )

    async def timeline(self, request: web.Request) -> web.Response:
        """Answer what a namespace's own sidecars decided, by the hour."""
        check_query(request, "since", "until")
        namespace = check_namespace(request.match_info["namespace"])
        now = self._clock()
        since = read_number(request, "since", default=now - _DAY_S, low=0, high=_FAR_S)
        until = read_number(request, "until", default=now, low=0, high=_FAR_S)
        found = await self._store.edges.list_timeline(namespace, since=since, until=min(until, now + _DAY_S))
        return answer(
            admin.Timeline(
                namespace=namespace,
                hours=tuple(
                    admin.TimelineHour(
                        start=each.hour * HOUR_S,
                        sidecars=each.sidecars,
                        lost=each.lost,
                        allowed=each.allowed,
                        would_deny=each.would_deny,
                        denied=each.denied,
                    )
                    for each in found
                ),
            )
        )
