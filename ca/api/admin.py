"""The admin API's application: all routes of ``shared.model.admin``, for the Unix socket. I/O.

What this does *not* check: who asks. The socket's mode (0600) does.
"""

from __future__ import annotations

from aiohttp import web

from ca.api.admin_authorities import AuthoritiesAdmin
from ca.api.admin_namespaces import NamespacesAdmin
from ca.api.admin_observation import ObservationAdmin
from ca.api.answers import error_middleware
from ca.api.health import HealthEndpoint
from ca.services import Services
from shared.model.admin import MAX_ADMIN_BODY_BYTES


def make_admin_application(services: Services, health: HealthEndpoint) -> web.Application:
    """Return the application with every admin route."""
    application = web.Application(
        middlewares=[error_middleware(services.metrics)], client_max_size=MAX_ADMIN_BODY_BYTES
    )
    application.add_routes(AuthoritiesAdmin(services).routes())
    application.add_routes(NamespacesAdmin(services).routes())
    application.add_routes(ObservationAdmin(services).routes())
    application.add_routes(health.routes())
    return application
