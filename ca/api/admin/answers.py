"""How admin requests are read and answered: strict JSON in, JSON or an ``ErrorAnswer`` out. No domain logic."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec
import structlog
from aiohttp import web

from ca.api.access.roles import is_question
from ca.metrics import Metrics
from shared.model.errors import (
    ConflictError,
    IdentityError,
    InputError,
    NotAuthenticatedError,
    NotFoundError,
    RefusedError,
    TooManyRequestsError,
    TouchmarkError,
    UnavailableError,
)
from shared.model.wire.admin import ErrorAnswer

_T = TypeVar("_T")
_STATUS: Final[tuple[tuple[type[TouchmarkError], int], ...]] = (
    (InputError, 400),
    (IdentityError, 400),
    (NotFoundError, 404),
    (ConflictError, 409),
    (NotAuthenticatedError, 401),
    (RefusedError, 403),
    (TooManyRequestsError, 429),
    (UnavailableError, 503),
)
_FAR: Final = 1e15
_log = structlog.get_logger("touchmark.ca")


def answer(value: object, *, status: int = 200) -> web.Response:
    """Write a struct of ``shared.model.wire.admin`` as JSON."""
    return web.Response(status=status, body=msgspec.json.encode(value), content_type="application/json")


async def read_body(request: web.Request, kind: type[_T]) -> _T:
    """Read the request's JSON strictly.

    Raises:
        InputError: it isn't such a value. (IdentityError: a digest or name inside it.)
    """
    body = await request.read()
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # The latter: a string in it isn't UTF-8.
        raise InputError(f"the request can't be read: {error}") from error


def read_number(request: web.Request, name: str, *, default: float, low: float, high: float) -> float:
    """Read a number of the query.

    Raises:
        InputError: it isn't a number from ``low`` to ``high``.
    """
    text = request.query.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(f"{name} must be a number, not {text[:40]!r}") from error
    if not low <= value <= high:
        raise InputError(f"{name} must be {low:g} to {high:g}")
    return value


def read_time(request: web.Request, name: str) -> float | None:
    """Read a time of the query, in seconds since the epoch; None when it isn't there.

    Raises:
        InputError: it isn't one.
    """
    return read_number(request, name, default=0, low=0, high=_FAR) if request.query.get(name) else None


def read_flag(request: web.Request, name: str) -> bool | None:
    """Read ``true`` or ``false`` of the query; None when it isn't there.

    Raises:
        InputError: it is something else.
    """
    match request.query.get(name):
        case None:
            return None
        case "true" | "1":
            return True
        case "false" | "0":
            return False
        case text:
            raise InputError(f"{name} must be true or false, not {text[:40]!r}")


def check_query(request: web.Request, *known: str) -> None:
    """Refuse unknown parameters: a misspelled filter must not show everything.

    Raises:
        InputError: there is one.
    """
    unknown = sorted(set(request.query) - set(known))
    if unknown:
        raise InputError(f"unknown parameter {unknown[0][:40]!r}", hint=f"known: {', '.join(known) or 'none'}")


def error_middleware(metrics: Metrics) -> Callable[..., Awaitable[web.StreamResponse]]:
    """Return the middleware that turns errors into ``ErrorAnswer``.

    A reader whose client hangs up is cancelled. A change is finished nevertheless: cancelled in the middle of its
    commit it could be in the store without anybody being told.
    """
    changing: set[asyncio.Task[web.StreamResponse]] = set()

    @web.middleware
    async def middleware(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            resource = request.match_info.route.resource
            if is_question(request.method, resource.canonical if resource is not None else ""):
                response = await handler(request)
            else:
                change = asyncio.ensure_future(_run(handler, request))
                changing.add(change)
                change.add_done_callback(changing.discard)
                response = await asyncio.shield(change)
        except web.HTTPException as error:
            code = "not_found" if error.status == 404 else "bad_input" if error.status < 500 else "touchmark_error"
            response = answer(ErrorAnswer(code=code, message=f"{error.reason}: {request.path}"), status=error.status)
        except TouchmarkError as error:
            status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
            response = answer(ErrorAnswer(code=error.code, message=error.message, hint=error.hint), status=status)
        except Exception:
            _log.exception("admin_request_failed", path=request.path)
            metrics.failures.labels(where="admin").inc()
            response = answer(
                ErrorAnswer(code="touchmark_error", message="the CA failed", hint="see its log"), status=500
            )
        metrics.admin_requests.labels(status=str(response.status)).inc()
        return response

    return middleware


async def _run(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]], request: web.Request
) -> web.StreamResponse:
    return await handler(request)
