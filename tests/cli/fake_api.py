"""An API server in miniature, for what a real one can't be made to say: canned answers, and forwarded ports.

Real HTTP over loopback; the forwarded port speaks the kubelet's framing and leads to a Unix socket.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

ADMIN_PORT_BYTES = (15081).to_bytes(2, "little")
CA_PODS = "GET /api/v1/namespaces/touchmark-system/pods"


def make_status(code: int, reason: str, message: str, **details: Any) -> web.Response:
    """Answer a ``Status`` object."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason}
    return web.json_response({**body, "message": message, "details": details}, status=code)


def make_pod(name: str, *, namespace: str = "touchmark-system", ready: bool = True, **more: Any) -> dict[str, Any]:
    """Return a pod with the fields that are used here."""
    return {
        "metadata": {"name": name, "namespace": namespace, **more.pop("metadata", {})},
        "spec": more.pop("spec", {}),
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            **more.pop("status", {}),
        },
        **more,
    }


@dataclass
class FakeAPI:
    """Gives canned answers, and remembers its requests.

    ``answers``: ``"GET /api/v1/..."`` → an object, a response, a (coroutine) function of the request, or a list of
    such, the last of which stays. Forwarding: ``forward_to``: a Unix socket, or a port of 127.0.0.1; ``forward_error``:
    said on the error channel instead; ``forward_status``: the answer to the handshake instead of 101; ``first_frames``:
    what the two channels begin with.
    """

    kubeconfig: Path
    port: int = 0
    answers: dict[str, Any] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    forward_to: Path | int | None = None
    forward_error: str = ""
    forward_status: int = 101
    forward_protocol: str = "v4.channel.k8s.io"
    forwarded: list[str] = field(default_factory=list)
    first_frames: tuple[bytes, ...] = (b"\0" + ADMIN_PORT_BYTES, b"\1" + ADMIN_PORT_BYTES)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        key = f"{request.method} {request.path}"
        body = await request.read()
        self.requests.append((key, dict(request.query), json.loads(body) if body else None))
        self.headers.append(dict(request.headers))
        if "/portforward" in request.path.lower():  # The API server's path, or the kubelet's behind it.
            return await self._forward(request)
        answer = self.answers.get(key)
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if callable(answer):
            answer = answer(request)
        if inspect.isawaitable(answer):
            answer = await answer
        if answer is None:
            name = request.path.rpartition("/")[2]
            return make_status(404, "NotFound", f'"{name}" not found', name=name)
        if isinstance(answer, web.Response):
            return web.Response(status=answer.status, body=answer.body, headers={"Content-Type": "application/json"})
        return web.json_response(answer)

    def asked(self, key: str) -> list[Any]:
        """Return the bodies of the requests to one path."""
        return [body for asked, _, body in self.requests if asked == key]

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        if self.forward_status != 101:
            return make_status(self.forward_status, "Forbidden", "no")
        self.forwarded.append(request.path)
        websocket = web.WebSocketResponse(protocols=(self.forward_protocol,))
        await websocket.prepare(request)
        for frame in self.first_frames:
            await websocket.send_bytes(frame)
        if self.forward_error or self.forward_to is None:
            await websocket.send_bytes(b"\1" + self.forward_error.encode())
            await websocket.close()
            return websocket
        if isinstance(self.forward_to, int):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.forward_to)
        else:
            reader, writer = await asyncio.open_unix_connection(str(self.forward_to))

        async def pump_up() -> None:
            async for message in websocket:
                assert message.type is WSMsgType.BINARY
                assert message.data[:1] == b"\0"
                writer.write(message.data[1:])
            writer.close()

        up = asyncio.create_task(pump_up())
        while data := await reader.read(1000):
            await websocket.send_bytes(b"\0" + data)
        up.cancel()
        writer.close()
        await websocket.close()
        return websocket


@contextmanager
def running_api(directory: Path, *, tls: ssl.SSLContext | None = None) -> Iterator[FakeAPI]:
    """Serve on a free port of loopback in a thread, with a kubeconfig that leads there."""
    api = FakeAPI(kubeconfig=directory / "kubeconfig")
    loop = asyncio.new_event_loop()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", api.handle)
    runner = web.AppRunner(application, shutdown_timeout=1)

    async def start() -> int:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        return int(runner.addresses[0][1])

    api.port = port = loop.run_until_complete(start())
    api.kubeconfig.write_text(json.dumps(make_kubeconfig(f"http://127.0.0.1:{port}")))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield api
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def make_kubeconfig(server: str, *, user: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a kubeconfig with one context, ``fake``, and a token."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "fake",
        "clusters": [{"name": "fake", "cluster": {"server": server}}],
        "users": [{"name": "somebody", "user": {"token": "secret-token"} if user is None else user}],
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "somebody"}}],
    }
