"""A stand-in for an API server on 127.0.0.1, for faults that a real one can't be made to show. Plain HTTP."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from aiohttp import web

from ca.kubernetes.api.client import ClusterClient

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def write_kubeconfig(path: Path, server: str, token: str = "the-token") -> Path:
    """Write a kubeconfig for it."""
    cluster = {"name": "fake", "cluster": {"server": server}}
    context = {"name": "fake", "context": {"cluster": "fake", "user": "fake"}}
    user = {"name": "fake", "user": {"token": token}}
    document = {"apiVersion": "v1", "kind": "Config", "current-context": "fake"}
    path.write_text(json.dumps({**document, "clusters": [cluster], "contexts": [context], "users": [user]}))
    return path


@contextlib.asynccontextmanager
async def faked(directory: Path, handler: Handler) -> AsyncIterator[ClusterClient]:
    """Serve every request by one handler, and give a client of it."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    client = await ClusterClient.open(write_kubeconfig(directory / "kubeconfig", f"http://{host}:{port}"))
    try:
        yield client
    finally:
        await client.close()
        await runner.cleanup()
