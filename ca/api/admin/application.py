"""The admin API's application: all routes of ``shared.model.wire.admin``, for the Unix socket and a loopback port. I/O.

Who may ask what is checked by the guard (``ca/api/access``). A browser on an operator's machine reaches a forwarded
port, too, and runs strangers' pages: its requests are refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from aiohttp import web

from ca.api.access.callers import Callers
from ca.api.access.guard import make_guard
from ca.api.admin.answers import error_middleware
from ca.metrics import Metrics
from shared.model.errors import RefusedError
from shared.model.wire.admin import MAX_ADMIN_BODY_BYTES

# Names that no page's own host name can be: the loopback's, and those that our clients write.
_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "[::1]", "ca", "touchmark"})


class Routed(Protocol):
    """An endpoint, or a few of them."""

    def routes(self) -> list[web.RouteDef]:
        """Return its routes."""
        ...


def make_admin_application(*endpoints: Routed, callers: Callers, metrics: Metrics) -> web.Application:
    """Return the application with the endpoints' routes, each behind the guard."""
    application = web.Application(
        middlewares=[error_middleware(metrics), refuse_browsers, make_guard(callers)],
        client_max_size=MAX_ADMIN_BODY_BYTES,
    )
    for endpoint in endpoints:
        application.add_routes(endpoint.routes())
    return application


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
