"""The page's server on 127.0.0.1: files, and answers for whoever has the session's token. I/O.

Belongs here: the listener, routes, bounds and deadlines. Doesn't: what is answered (``answers.py``). It is a server of
this command and not the CA's: the CA's admin API refuses browsers, holds no sessions, and so stays as small as it is.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from cli.ui.actions import MAX_BODY_BYTES
from cli.ui.answers import Query, write
from cli.ui.files import StaticFile
from cli.ui.guard import HEADERS, check_change, check_origin, check_token
from cli.ui.shapes import Failure
from shared.model.errors import (
    ConflictError,
    IdentityError,
    InputError,
    NotFoundError,
    RefusedError,
    TouchmarkError,
    UnavailableError,
)

HOST: Final = "127.0.0.1"
ACT_PATH: Final = "/api/act"
MAX_CONNECTIONS: Final = 32
MAX_RUNNING: Final = 4
REQUEST_DEADLINE_S: Final = 60.0
FIRST_REQUEST_DEADLINE_S: Final = 15.0
KEEPALIVE_S: Final = 30.0
SHUTDOWN_S: Final = 2.0
_STATUS: Final[tuple[tuple[type[TouchmarkError], int], ...]] = (
    (InputError, 400),
    (IdentityError, 400),
    (RefusedError, 403),
    (ConflictError, 409),
    (NotFoundError, 404),
)

Handler = Callable[[Query], Awaitable[object]]
Act = Callable[[bytes], Awaitable[object]]


class Page:
    """The application: files for everyone on this machine, answers for the session.

    Arguments:
        token: what each question must bring.
        act: makes a change; None: nothing is changed.
    """

    def __init__(
        self, files: Mapping[str, StaticFile], handlers: Mapping[str, Handler], *, token: str, act: Act | None = None
    ) -> None:
        self._files = files
        self._handlers = handlers
        self._token = token
        self._running = asyncio.Semaphore(MAX_RUNNING)
        self._act = act
        self._changing = asyncio.Lock()  # One after the other, as a person confirms them.

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Answer one request; what fails is an answer as well."""
        try:
            check_origin(request.headers, is_page=request.method == "GET" and request.path == "/")
            if request.method == "POST" and request.path == ACT_PATH and self._act is not None:
                return _respond(write(await self._change(request, self._act)), "application/json")
            if request.method != "GET":
                raise InputError("this server only answers GET")
            file = self._files.get(request.path)
            if file is not None:
                return _respond(file.content, file.media_type)
            return _respond(write(await self._answer(request)), "application/json")
        except TouchmarkError as error:
            status = next((status for kind, status in _STATUS if isinstance(error, kind)), 502)
            failure = Failure(code=error.code, message=error.message, hint=error.hint)
            return _respond(write(failure), "application/json", status=status)

    async def _change(self, request: web.BaseRequest, act: Act) -> object:
        check_change(request.headers)
        check_token(request.headers, self._token)
        try:
            async with asyncio.timeout(REQUEST_DEADLINE_S), self._changing:
                body = await request.content.read(MAX_BODY_BYTES + 1)
                while len(body) <= MAX_BODY_BYTES and (more := await request.content.read(MAX_BODY_BYTES)):
                    body += more
                if len(body) > MAX_BODY_BYTES:
                    raise InputError("the request is too long")
                return await act(body)
        except TimeoutError as error:
            raise UnavailableError("no answer in time: it may have been done", hint="refresh the page") from error

    async def _answer(self, request: web.BaseRequest) -> object:
        handler = self._handlers.get(request.path)
        if handler is None:
            raise NotFoundError(f"nothing at {request.path[:80]}")
        check_token(request.headers, self._token)
        try:
            async with asyncio.timeout(REQUEST_DEADLINE_S), self._running:
                return await handler(dict(request.query))
        except TimeoutError as error:
            raise UnavailableError("no answer in time", hint="narrow the view or try again") from error


def _respond(content: bytes, media_type: str, *, status: int = 200) -> web.Response:
    return web.Response(body=content, status=status, content_type=media_type, charset="utf-8", headers=dict(HEADERS))


@asynccontextmanager
async def serving(page: Page, *, port: int = 0) -> AsyncIterator[str]:
    """Serve the page while the context lasts; yield its URL without a token.

    Arguments:
        port: 0: the kernel chooses.

    Raises:
        UnavailableError: the port is taken, or not this user's to take.
    """
    listener = _listen(port)
    silent: set[object] = set()  # Connections that haven't sent their first request yet.

    async def note_request(request: web.BaseRequest) -> web.StreamResponse:
        silent.discard(request.protocol)
        return await page.handle(request)

    runner = web.ServerRunner(
        web.Server(note_request, access_log=None, keepalive_timeout=KEEPALIVE_S), shutdown_timeout=SHUTDOWN_S
    )
    try:
        await runner.setup()
        make_protocol = runner.server
        assert make_protocol is not None
        server = await asyncio.get_running_loop().create_server(_bound(make_protocol, silent), sock=listener)
        try:
            yield f"http://{HOST}:{listener.getsockname()[1]}/"
        finally:
            server.close()
    finally:
        await runner.cleanup()
        listener.close()


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(MAX_CONNECTIONS)
        listener.setblocking(False)
    except (OSError, OverflowError) as error:
        listener.close()
        hint = "use another --port" if getattr(error, "errno", 0) == errno.EADDRINUSE else "leave --port out"
        raise UnavailableError(f"can't listen on port {port}: {error}", hint=hint) from error
    return listener


class _Refusing(asyncio.Protocol):
    """One connection too many: ended at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.WriteTransport):
            transport.abort()


def _bound(make_protocol: web.Server, silent: set[object]) -> Callable[[], asyncio.BaseProtocol]:
    """Bound how many connections there are, and how long one may take until it has asked something."""
    loop = asyncio.get_running_loop()
    # Of many that come at once all are made before the first of them counts as a connection.
    starting: set[object] = set()

    def make() -> asyncio.BaseProtocol:
        if len(make_protocol.connections) + len(starting) >= MAX_CONNECTIONS:
            return _Refusing()
        protocol = make_protocol()
        silent.add(protocol)
        starting.add(protocol)
        loop.call_soon(loop.call_soon, starting.discard, protocol)

        def end_if_silent() -> None:
            if protocol in silent:
                silent.discard(protocol)
                if protocol.transport is not None:
                    protocol.transport.abort()

        loop.call_later(FIRST_REQUEST_DEADLINE_S, end_if_silent)
        return protocol

    return make
