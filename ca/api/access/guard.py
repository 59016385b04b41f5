"""Every admin request passes here: who asks, what the request needs, whether both fit, and for whom acts are recorded.

Belongs here: the middleware. Doesn't: the table (``roles.py``), or the answers (``ca/api/admin``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from ca.api.access.callers import Callers
from ca.api.access.roles import find_need
from ca.store.audit.acting import acting_as
from shared.model.errors import RefusedError

_log = structlog.get_logger("touchmark.ca")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_guard(callers: Callers) -> Middleware:
    """Return the middleware that lets requests through to their handlers.

    It raises ``NotAuthenticatedError``, ``NotAllowedError`` and ``UnavailableError``. A path without a route gets 404.
    """

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        if resource is None:  # No route: this handler answers 404 or 405, and nothing else.
            return await handler(request)
        path, who = resource.canonical, ""
        need = find_need(request.method, path, request.match_info, request.query)
        if need is None:
            return await handler(request)
        try:
            caller = await callers.identify(request)
            who = caller.actor.name or str(caller.actor.uid)
            await caller.check(need)
        except RefusedError as error:
            _log.warning("admin_request_refused", caller=who, method=request.method, path=path, reason=error.reason)
            raise
        if request.method in ("GET", "HEAD"):
            return await handler(request)
        with acting_as(caller.actor):
            return await handler(request)

    return guard
