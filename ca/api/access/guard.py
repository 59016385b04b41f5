"""Every admin request passes here: who asks, what the request needs, whether both fit, and for whom acts are recorded.

Belongs here: the middleware. Doesn't: the table (``roles.py``), or the answers (``ca/api/admin``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from ca.api.access.callers import Callers
from ca.api.access.roles import Need, find_need, find_needs_in_body, is_named_in_body, is_question
from ca.api.access.turns import Turns
from ca.connections import ConnectionRoom
from ca.store.audit.acting import acting_as
from ca.tracing import step, vouch
from shared.model.errors import InputError, RefusedError

BODY_DEADLINE_S: Final = 30.0
# Bodies of questions, and those in which a request's namespaces stand: these are read before the right is known.
BODIES_AT_ONCE: Final = 8
BODIES_AT_ONCE_OF_ONE: Final = 2
# One waits for sidecars, for up to half a minute, the other lasts for as long as its caller likes: neither may keep a
# question from its turn. Followers have bounds of their own.
_WAITING: Final = "/v1/connections"
_FOLLOWING: Final = "/v1/decisions/follow"
_log = structlog.get_logger("touchmark.ca")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Recheck:
    """Checks again, while an answer lasts, that its caller is who it was and may ask."""

    def __init__(self, callers: Callers, request: web.Request, need: Need) -> None:
        self._callers = callers
        self._request = request
        self._need = need

    async def check(self) -> None:
        """Raises as ``Callers.identify`` and ``Caller.check``."""
        caller = await self._callers.identify(self._request, is_again=True)
        await caller.check(self._need)


# Of a follower's request.
RECHECK: Final = web.RequestKey("recheck", Recheck)
# Of a follower's request: what its caller is known by.
CALLER: Final = web.RequestKey("caller", str)


class Rooms:
    """The turns of one of the API's doors: what is asked at the port keeps nobody out at the Unix socket."""

    def __init__(self) -> None:
        self._questions = Turns()
        self._surveys = Turns()
        self.bodies = Turns(at_once=BODIES_AT_ONCE, at_once_of_one=BODIES_AT_ONCE_OF_ONE)

    def take_turn(self, method: str, path: str, who: str) -> contextlib.AbstractAsyncContextManager[None]:
        """Return a turn for a request, as a context; raises as ``Turns.take``."""
        if path == _FOLLOWING or not is_question(method, path):
            return contextlib.nullcontext()
        return (self._surveys if path == _WAITING else self._questions).take(who)


def make_guard(callers: Callers, *connections: ConnectionRoom) -> Middleware:
    """Return the middleware that lets requests through to their handlers.

    It raises ``NotAuthenticatedError``, ``NotAllowedError``, ``TooManyRequestsError`` and ``UnavailableError``. A path
    without a route gets 404.

    Arguments:
        connections: of the API's doors; those whose requests are answered or whose callers are known keep their places.
    """
    doors = {"socket": Rooms(), "user": Rooms()}

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        if resource is None:  # No route: this handler answers 404 or 405, and nothing else.
            return await handler(request)
        method, path, who = request.method, resource.canonical, ""
        need = find_need(method, path, request.match_info, request.query)
        if need is None:
            return await handler(request)
        with contextlib.ExitStack() as place:
            # Also while it isn't known yet who asks: the API server may take its time, of few requests at once.
            for room in connections:
                place.enter_context(room.asking(request.protocol))
            try:
                with step("authenticate") as traced:
                    caller = await callers.identify(request)
                    vouch()
                    who = caller.actor.name or str(caller.actor.uid)
                    for room in connections:
                        place.enter_context(room.asking(request.protocol, f"{caller.actor.kind} {who}"))
                    if traced is not None:
                        traced.note(touchmark_actor=who, touchmark_actor_kind=caller.actor.kind)
                rooms = doors[caller.actor.kind]
                is_named = is_named_in_body(method, path)
                if is_named or (request.can_read_body and is_question(method, path)):
                    async with rooms.bodies.take(who):
                        await _read_body(request)
                with step("authorize"):
                    needs = find_needs_in_body(method, path, await request.read()) if is_named else (need,)
                    for each in needs:
                        await caller.check(each)
            except RefusedError as error:
                _log.warning("admin_request_refused", caller=who, method=method, path=path, reason=error.reason)
                raise
            if path == _FOLLOWING:
                request[CALLER] = who
                request[RECHECK] = Recheck(callers, request, need)
            async with rooms.take_turn(method, path, who):
                if is_question(method, path):
                    return await handler(request)
                await _read_body(request)
                with acting_as(caller.actor), step("act"):
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
