"""The admin API's application: all routes of ``shared.model.wire.admin``, for the Unix socket and a loopback port. I/O.

Who may ask what is checked by the guard (``ca/api/access``). A browser on an operator's machine reaches a forwarded
port, too, and runs strangers' pages: its requests are refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from aiohttp import web
from aiohttp.typedefs import Middleware

from ca.api.access.callers import Callers
from ca.api.access.guard import make_guard
from ca.api.access.roles import is_question
from ca.api.admin.answers import error_middleware
from ca.connections import ConnectionRoom
from ca.metrics import Metrics
from ca.tracing import Tracer
from shared.model.errors import RefusedError
from shared.model.wire.admin import MAX_ADMIN_BODY_BYTES

# Names that no page's own host name can be: the loopback's, and those that our clients write.
_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "[::1]", "ca", "touchmark"})


class Routed(Protocol):
    """An endpoint, or a few of them."""

    def routes(self) -> list[web.RouteDef]:
        """Return its routes."""
        ...


def make_admin_application(
    *endpoints: Routed, callers: Callers, metrics: Metrics, tracer: Tracer, rooms: Sequence[ConnectionRoom]
) -> web.Application:
    """Return the application with the endpoints' routes, each behind the guard.

    Arguments:
        rooms: the connections of the API's doors.
    """
    application = web.Application(
        middlewares=[error_middleware(metrics), refuse_browsers, make_tracing(tracer), make_guard(callers, *rooms)],
        client_max_size=MAX_ADMIN_BODY_BYTES,
    )
    for endpoint in endpoints:
        application.add_routes(endpoint.routes())
    return application


def make_tracing(tracer: Tracer) -> Middleware:
    """Return the middleware that traces acts, and questions whose caller traces them (W3C's ``traceparent``).

    Only of callers that the guard has authenticated: a stranger would fill what waits for the collector.
    """

    @web.middleware
    async def trace(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        resource = request.match_info.route.resource
        if not tracer.is_on or resource is None:
            return await handler(request)
        method, path = request.method, resource.canonical
        traceparent = request.headers.get("traceparent", "")
        is_act = not is_question(method, path)
        name = f"{method} {path}"
        with tracer.begin(name, traceparent=traceparent, is_sampled=is_act, is_held=True) as traced:
            if traced is not None:
                traced.attributes.update({"http.request.method": method, "http.route": path})
            return await handler(request)

    return trace


@web.middleware
async def refuse_browsers(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Refuse what a page in a browser may send: a request from another origin, or one by a name that was rebound.

    Raises:
        RefusedError: it is such a request.
    """
    host = request.headers.get("Host", "ca")
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    if name.lower() not in _HOSTS or "Origin" in request.headers or "Sec-Fetch-Site" in request.headers:
        raise RefusedError("the admin API doesn't serve browsers", hint="use the command touchmark")
    return await handler(request)
