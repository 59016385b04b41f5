"""A CA's admin API in miniature: real HTTP over a real Unix socket, answers from ``shared.model.wire.admin``."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from shared.model.wire.admin import ErrorAnswer

_STATUS = {"not_found": 404, "unavailable": 503}


@dataclass
class FakeCA:
    """Gives canned answers, and remembers its requests.

    ``answers``: ``"GET /v1/status"`` → an answer, an ``ErrorAnswer`` (HTTP 400, 404 or 503), or a list of answers, the
    last of which stays.
    """

    socket: Path
    answers: dict[str, Any] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    headers: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        key = f"{request.method} {request.path}"
        body = await request.read()
        self.requests.append((key, dict(request.query), msgspec.json.decode(body) if body else None))
        self.headers.append((key, dict(request.headers)))
        answer = self.answers.get(key, ErrorAnswer(code="not_found", message=f"nothing at {key}"))
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if isinstance(answer, bytes):
            return web.Response(body=answer)
        status = 200
        if isinstance(answer, ErrorAnswer):
            status = _STATUS.get(answer.code, 400)
        return web.Response(body=msgspec.json.encode(answer), status=status, content_type="application/json")

    def asked(self, key: str) -> list[Any]:
        """Return the bodies of the requests to one endpoint."""
        return [body for asked, _, body in self.requests if asked == key]


@contextmanager
def running_ca(directory: Path) -> Iterator[FakeCA]:
    """Serve on ``directory/admin.sock`` in a thread: the command under test runs its own loop."""
    ca = FakeCA(socket=directory / "admin.sock")
    loop = asyncio.new_event_loop()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", ca.handle)
    runner = web.AppRunner(application)

    async def start() -> None:
        await runner.setup()
        await web.UnixSite(runner, str(ca.socket)).start()

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield ca
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
