"""What happens on an authenticated stream until either side ends it: read, answer, write. I/O: the WebSocket.

Belongs here: the tasks, their bounds and deadlines, and how a stream ends. Doesn't: what a message means
(``messages.py``, ``certificate_requests.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

import msgspec
import structlog
from aiohttp import WSCloseCode, WSMsgType, web

from ca.api.stream.certificate_requests import CertificateRequests
from ca.api.stream.messages import SidecarMessages
from ca.distribution.hub import REPLACED
from ca.distribution.session import Session
from ca.metrics import Metrics
from shared.model.errors import ProtocolError, TouchmarkError
from shared.model.wire.messages import CertificateRequest, FromSidecar, decode_from_sidecar

SEND_DEADLINE_S: Final = 20.0
CLOSE_DEADLINE_S: Final = 3.0
# Of one stream at once; a sidecar with more to ask waits, and its socket with it.
MAX_REQUESTS_IN_WORK: Final = 64

_log = structlog.get_logger("touchmark.ca")


class Conversation:
    """One authenticated stream."""

    def __init__(
        self,
        websocket: web.WebSocketResponse,
        session: Session,
        *,
        messages: SidecarMessages,
        requests: CertificateRequests,
        metrics: Metrics,
    ) -> None:
        self._websocket = websocket
        self._session = session
        self._messages = messages
        self._requests = requests
        self._metrics = metrics
        self._slots = asyncio.Semaphore(MAX_REQUESTS_IN_WORK)
        self._in_work: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Read and write until the peer leaves, breaks the protocol, or the CA ends the stream.

        Raises:
            TouchmarkError: the peer is to be refused.
        """
        name = self._session.instance
        reader = asyncio.create_task(self._read(), name=f"stream-read-{name}")
        writer = asyncio.create_task(self._write(), name=f"stream-write-{name}")
        try:
            ends: list[asyncio.Future[Any]] = [reader, writer, self._session.ended]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            tasks = [reader, writer, *self._in_work]
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        why = self._session.ended.result() if self._session.ended.done() else "peer"
        self._session.has_stopped = why == "peer" and self._websocket.close_code == WSCloseCode.GOING_AWAY
        if why != "peer":
            self._metrics.streams_closed.labels(why=why).inc()
        _log.info("stream_closed", instance=name, why=why, close_code=self._websocket.close_code)
        for failure in results:
            if isinstance(failure, TouchmarkError):
                raise failure
            if isinstance(failure, Exception) and not isinstance(failure, TimeoutError | ConnectionError):
                raise failure
        code = WSCloseCode.SERVICE_RESTART if why == "shutdown" else WSCloseCode.TRY_AGAIN_LATER
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(CLOSE_DEADLINE_S):
                await self._websocket.close(code=WSCloseCode.OK if why in ("peer", REPLACED) else code)

    async def _read(self) -> None:
        while (message := await receive(self._websocket)) is not None:
            self._session.is_read = False
            if not isinstance(message, CertificateRequest):
                await self._messages.answer(self._session, message)
                self._session.is_read = True
                continue
            await self._slots.acquire()
            self._session.is_read = True
            task = asyncio.create_task(
                self._requests.answer(self._session, message), name=f"issue-{self._session.instance}"
            )
            self._in_work.add(task)
            task.add_done_callback(self._finish_request)

    async def _write(self) -> None:
        take = self._session.outbox.take
        while True:
            data = await take()
            try:
                async with asyncio.timeout(SEND_DEADLINE_S):
                    await self._websocket.send_bytes(data)
            except TimeoutError:
                self._session.end("slow")
                return

    def _finish_request(self, task: asyncio.Task[None]) -> None:
        self._in_work.discard(task)
        self._slots.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._metrics.failures.labels(where="issuance").inc()
            _log.error("issuance_failed", instance=self._session.instance, error=repr(error))
            self._session.end("failure")


async def receive(websocket: web.WebSocketResponse) -> FromSidecar | None:
    """Return the next message; None when the peer has left.

    Raises:
        ProtocolError: it isn't a message of ours.
    """
    frame = await websocket.receive()
    if frame.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED):
        return None
    if frame.type is WSMsgType.ERROR:
        raise ProtocolError("a broken WebSocket frame, or a message that is too large")
    if frame.type not in (WSMsgType.BINARY, WSMsgType.TEXT):
        raise ProtocolError("neither text nor binary")
    try:
        return decode_from_sidecar(frame.data)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"a message that can't be decoded: {error}") from error
