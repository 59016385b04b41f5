"""The little HTTP server that the kubelet asks: ``/ready``, ``/healthz`` and the pod's probes, fixed at injection.

Belongs here: connections, their bound and deadlines, which path is which. Doesn't: performing a probe. Nothing
distinguishes a kubelet, so the paths of probes and hooks hold a secret of the pod's spec; ``/ready`` and ``/healthz``
answer anybody and change nothing, as does ``/metrics``, which names nobody.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import h11

from shared.model.errors import MachineError
from shared.model.kubernetes.contract import ProbeTarget
from shared.runtime.tasks import Tasks
from sidecar.capture.accept_loop import AcceptLoop, open_listener
from sidecar.events import Events
from sidecar.figures.exposition import CONTENT_TYPE
from sidecar.probing.hook_runs import HookRuns, is_hook
from sidecar.probing.outcome import MAX_BODY_BYTES, Outcome
from sidecar.sockets.address import Endpoint, format_endpoint
from sidecar.sockets.ending import reset

MAX_CONNECTIONS = 64
_LEAVING = 8  # Tasks that were told to end and haven't yet.
_MAX_HEADER_BYTES = 16 * 1024
_REQUEST_S = 5.0
_ANSWER_S = 5.0
# Rendering looks at every connection and descriptor, on the event loop, for anybody who asks.
_PAGE_LIFE_S = 1.0

# Every address of the pod: the kubelet asks its main one, loopback serves who looks from inside.
_ADDRESSES = ("0.0.0.0", "::")
Perform = Callable[[ProbeTarget], Coroutine[Any, Any, Outcome]]


def open_probe_listeners(port: int) -> list[socket.socket]:
    """Open the listening sockets, on IPv4 and, where there is IPv6, on that as well.

    Raises:
        MachineError: the port can't be had.
    """
    listeners: list[socket.socket] = []
    for address in _ADDRESSES:
        try:
            listeners.append(open_listener((address, port)))
        except OSError as error:
            if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL) and ":" in address:
                continue
            for listener in listeners:
                listener.close()
            hint = "another process has it: `ss -ltnp`" if error.errno == errno.EADDRINUSE else ""
            raise MachineError(
                f"can't listen on {format_endpoint((address, port))}: {error.strerror}", hint=hint
            ) from error
    return listeners


class ProbeServer:
    """Answers on these listening sockets until it is closed.

    Arguments:
        listeners: taken over.
        judge: what ``/ready`` answers.
        perform: performs a probe.
        render_metrics: what ``/metrics`` answers; None: it isn't answered.
        tasks: of its connections, at most ``MAX_CONNECTIONS``.
    """

    def __init__(
        self, listeners: Sequence[socket.socket], *, targets: Sequence[ProbeTarget], judge: Callable[[], Outcome],
        perform: Perform, render_metrics: Callable[[], bytes] | None, tasks: Tasks, events: Events,
    ) -> None:  # fmt: skip
        self._targets = {target.request_path: target for target in targets}
        self._hook_runs = HookRuns()
        self._judge = judge
        self._perform = perform
        self._render_metrics = render_metrics
        self._page: tuple[float, bytes] | None = None  # Rendered last, and when in the loop's time.
        self._tasks = tasks
        self._events = events
        self._waiting: dict[socket.socket, asyncio.Task[None]] = {}  # Without a request yet, the oldest first.
        self._loops = [AcceptLoop(listener, self._accept, on_pause=self._pause) for listener in listeners]

    def start(self) -> None:
        """Begin to answer."""
        for loop in self._loops:
            loop.start()

    def close(self) -> None:
        """Stop accepting."""
        for loop in self._loops:
            loop.close()

    def _accept(self, connection: socket.socket, source: Endpoint) -> None:
        if len(self._tasks) >= MAX_CONNECTIONS + _LEAVING:
            reset(connection)
            return
        if len(self._tasks) >= MAX_CONNECTIONS:
            # The one that waits longest without a request makes room: idle strangers mustn't fail the kubelet's probes.
            oldest = next(iter(self._waiting), None)
            if oldest is None:
                reset(connection)
                return
            self._waiting.pop(oldest).cancel()
        task = self._waiting[connection] = self._tasks.spawn(self._serve(connection), name="probe")
        task.add_done_callback(lambda _: self._close(connection))  # Also of a task that never began.

    def _close(self, connection: socket.socket) -> None:
        self._waiting.pop(connection, None)
        connection.close()

    def _pause(self, error: OSError, pause_s: float) -> None:
        where = format_endpoint(self._loops[0].local)
        self._events.emit("accepting_paused", listener=where, error=error.strerror, pause_s=pause_s)

    async def _serve(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        exchange = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEADER_BYTES)
        try:
            async with asyncio.timeout(_REQUEST_S):
                request = await _read_request(loop, connection, exchange)
            self._waiting.pop(connection, None)
            outcome = await self._answer(loop, connection, request)
            if outcome is None:
                reset(connection)
                return
            async with asyncio.timeout(_ANSWER_S):
                await loop.sock_sendall(connection, _write_answer(exchange, outcome))
        except h11.RemoteProtocolError as error:
            # A status that fits (431 for a header that is too long), if it can still be said.
            await _say(loop, connection, exchange, Outcome(status=error.error_status_hint, body=b"not a request\n"))
        except (h11.LocalProtocolError, TimeoutError, OSError, EOFError):
            pass  # The client is gone, too slow, or asked for what has no answer (HEAD).

    async def _answer(
        self, loop: asyncio.AbstractEventLoop, connection: socket.socket, request: h11.Request
    ) -> Outcome | None:
        """Answer one request; None where only a broken connection tells the kubelet that its hook failed."""
        if request.method != b"GET":
            return Outcome(status=405, body=b"only GET\n")
        path = request.target.partition(b"?")[0].decode("latin-1")
        if path == "/ready":
            return self._judge()
        if path == "/healthz":
            return Outcome(status=200, body=b"alive\n")
        if path == "/metrics" and self._render_metrics is not None:
            now = loop.time()
            if self._page is None or now - self._page[0] >= _PAGE_LIFE_S:
                self._page = now, self._render_metrics()
            return Outcome(status=200, body=self._page[1], content_type=CONTENT_TYPE)
        target = self._targets.get(path)
        if target is None:
            return Outcome(status=404, body=b"no such probe\n")
        if is_hook(target):
            return await self._perform_hook(loop, connection, target)
        return await self._perform_for(loop, connection, target)

    async def _perform_hook(
        self, loop: asyncio.AbstractEventLoop, connection: socket.socket, target: ProbeTarget
    ) -> Outcome | None:
        """Perform a hook unless it was performed lately; None where a status would count as success."""
        if not self._hook_runs.begin(target, loop.time()):
            self._events.emit("hook_refused", container=target.container_name, hook=target.kind)
            return None
        try:
            outcome = await self._perform_for(loop, connection, target)
        finally:
            self._hook_runs.end(target, loop.time())
        # The kubelet doesn't look at the status of a hook's answer: any is success.
        return outcome if outcome.has_answer else None

    async def _perform_for(
        self, loop: asyncio.AbstractEventLoop, connection: socket.socket, target: ProbeTarget
    ) -> Outcome:
        """Perform the probe as long as the client is there: a kubelet that gave up asks again."""
        probe = asyncio.create_task(self._perform(target), name="perform")
        leaving = asyncio.create_task(loop.sock_recv(connection, 1), name="kubelet")
        try:
            await asyncio.wait({probe, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not probe.done():
                raise EOFError("the client is gone")
            return probe.result()
        finally:
            for task in (probe, leaving):
                task.cancel()
            await asyncio.gather(probe, leaving, return_exceptions=True)


async def _read_request(
    loop: asyncio.AbstractEventLoop, connection: socket.socket, exchange: h11.Connection
) -> h11.Request:
    while True:
        event = exchange.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            raise EOFError("no request")
        exchange.receive_data(await loop.sock_recv(connection, 4096))


def _write_answer(exchange: h11.Connection, outcome: Outcome) -> bytes:
    body = outcome.body if outcome.content_type is not None else outcome.body[:MAX_BODY_BYTES]
    headers = [
        ("content-type", outcome.content_type or "text/plain; charset=utf-8"), ("content-length", str(len(body))),
        ("x-content-type-options", "nosniff"), ("connection", "close"),
    ]  # fmt: skip
    has_body = outcome.status not in (204, 304)  # RFC 9110, section 6.4.1.
    parts = [exchange.send(h11.Response(status_code=outcome.status, headers=headers if has_body else headers[3:]))]
    parts += [exchange.send(h11.Data(data=body))] if has_body else []
    return b"".join(part or b"" for part in (*parts, exchange.send(h11.EndOfMessage())))


async def _say(
    loop: asyncio.AbstractEventLoop, connection: socket.socket, exchange: h11.Connection, outcome: Outcome
) -> None:
    try:
        async with asyncio.timeout(_ANSWER_S):
            await loop.sock_sendall(connection, _write_answer(exchange, outcome))
    except (h11.LocalProtocolError, TimeoutError, OSError):
        return
