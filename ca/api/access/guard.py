"""Every admin request passes here: who asks, what the request needs, whether both fit, and for whom acts are recorded.

Belongs here: the middleware. Doesn't: the table (``roles.py``), or the answers (``ca/api/admin``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from ca.api.access.callers import Callers
from ca.api.access.roles import find_need
from ca.store.audit.acting import acting_as
from shared.model.errors import InputError, RefusedError

BODY_DEADLINE_S: Final = 30.0
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
        await _read_body(request)
        with acting_as(caller.actor):
            return await handler(request)

    return guard


async def _read_body(request: web.Request) -> None:
    """Read the body, which aiohttp keeps for the handler: a right is checked once, and mustn't be used hours later.

    Raises:
        InputError: it doesn't come in time.
    """
    try:
        async with asyncio.timeout(BODY_DEADLINE_S):
            await request.read()
    except TimeoutError as error:
        raise InputError("the request's body didn't come in time", hint="send it again") from error
