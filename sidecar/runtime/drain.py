"""Ends a sidecar: no new connections, live ones get their time, then everything is closed in the order of dependence.

Belongs here: that order and its deadlines. Doesn't: who is told that it begins (``sidecar/draining.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from shared.runtime.sinks import LineSink
from sidecar.connection.registry import LiveConnections
from sidecar.events import Events
from sidecar.probing.life import Life
from sidecar.runtime.compose import Composition
from sidecar.runtime.shutdown import Shutdown

LAST_RECORDS_S = 3.0
TASKS_END_S = 2.0
_CLOSING_S = 1.0


async def drain(parts: Composition, life: Life, events: Events, log_sink: LineSink, shutdown: Shutdown) -> None:
    """End every part. Live connections have ``limits.drain_s``, or until a second signal."""
    sidecar = parts.sidecar
    life.begin_draining()
    if parts.held_connects is not None:
        parts.held_connects.close()
    parts.capturing.close()
    # Whoever reads this can rely on it: nothing is accepted any more.
    events.emit("sidecar_draining", connections=len(sidecar.connections))
    sidecar.draining.begin()
    await _wait_for_connections(sidecar.connections, sidecar.limits.drain_s, shutdown.hurried)
    sidecar.connections.close_all()
    sidecar.connector.close()
    await parts.connection_tasks.close(timeout_s=TASKS_END_S)
    await parts.tunnel_tasks.drain(timeout_s=_CLOSING_S)
    await parts.tunnel_tasks.close(timeout_s=TASKS_END_S)
    await sidecar.recorder.close(timeout_s=LAST_RECORDS_S)
    sidecar.credentials.close()
    await parts.opener.uplink.close()
    await parts.background.close(timeout_s=TASKS_END_S)
    sidecar.attestor.close()
    sidecar.code.close()
    events.emit("sidecar_stopped", records_lost=sidecar.recorder.lost_total + log_sink.lost_lines)


async def _wait_for_connections(connections: LiveConnections, timeout_s: float, hurried: asyncio.Event) -> None:
    deadline = time.monotonic() + timeout_s
    while len(connections) and time.monotonic() < deadline and not hurried.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await hurried.wait()
