"""The admin API's application: all routes of ``shared.model.wire.admin``, for the Unix socket and a loopback port. I/O.

What this does *not* check: who asks. The socket's mode (0600) does; of the loopback port whoever may reach it: other
containers of the CA's pod (there are none), and in Kubernetes those who may ``create pods/portforward`` there. A
browser on an administrator's machine reaches a forwarded port, too, and runs strangers' pages: its requests are
refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from ca.api.admin_authorities import AuthoritiesAdmin
from ca.api.admin_cluster import ClusterAdmin
from ca.api.admin_foreign import ForeignAdmin
from ca.api.admin_namespaces import NamespacesAdmin
from ca.api.admin_observation import ObservationAdmin
from ca.api.answers import error_middleware
from ca.api.health import HealthEndpoint
from ca.runtime.services import Services
from shared.model.errors import RefusedError
from shared.model.wire.admin import MAX_ADMIN_BODY_BYTES

# Names that no page's own host name can be: the loopback's, and those that our clients write.
_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "[::1]", "ca", "touchmark"})


def make_admin_application(services: Services, health: HealthEndpoint) -> web.Application:
    """Return the application with every admin route."""
    application = web.Application(
        middlewares=[error_middleware(services.metrics), refuse_browsers], client_max_size=MAX_ADMIN_BODY_BYTES
    )
    application.add_routes(AuthoritiesAdmin(services).routes())
    application.add_routes(NamespacesAdmin(services).routes())
    application.add_routes(ObservationAdmin(services).routes())
    application.add_routes(ClusterAdmin(services).routes())
    application.add_routes(ForeignAdmin(services).routes())
    application.add_routes(health.routes())
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
