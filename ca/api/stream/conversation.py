"""What happens on an authenticated stream until either side ends it: read, answer, write. I/O: the WebSocket.

Belongs here: the tasks, their bounds and deadlines, and how a stream ends. Doesn't: what a message means
(``messages.py``, ``certificate_requests.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import msgspec
import structlog
from aiohttp import WSCloseCode, WSMsgType, web

from ca.api.stream.certificate_requests import CertificateRequests
from ca.api.stream.messages import SidecarMessages
from ca.distribution.hub import REPLACED
from ca.distribution.session import Session
from ca.metrics import Metrics
from shared.model.errors import ProtocolError, TouchmarkError
from shared.model.wire.messages import CertificateRequest, FromCA, FromSidecar, decode_from_sidecar

SEND_DEADLINE_S: Final = 20.0
CLOSE_DEADLINE_S: Final = 3.0
# Of one stream at once; a sidecar with more to ask waits, and its socket with it.
MAX_REQUESTS_IN_WORK: Final = 64
# After so many messages the other streams have their turn: those that have arrived are there without waiting, thousands
# of small ones in one piece, and a sidecar that sends nothing else would have the event loop for itself.
_TURN: Final = 8

_log = structlog.get_logger("touchmark.ca")


class Conversation:
    """One authenticated stream.

    There may be thousands, most of which are silent: while nothing is said each has one task, which reads.
    """

    __slots__ = (
        "_has_slot",
        "_in_work",
        "_is_over",
        "_is_writing",
        "_messages",
        "_metrics",
        "_requests",
        "_session",
        "_websocket",
        "_writer",
    )

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
        self._in_work: set[asyncio.Task[None]] = set()
        self._has_slot: asyncio.Future[None] | None = None
        self._is_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._is_writing = False
        self._writer: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Read and write until the peer leaves, breaks the protocol, or the CA ends the stream.

        Raises:
            TouchmarkError: the peer is to be refused.
        """
        failure = await self._run()
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # Its traceback names this frame: each would hold the other, and the stream with them.
        why = self._tell_end()
        code = WSCloseCode.SERVICE_RESTART if why == "shutdown" else WSCloseCode.TRY_AGAIN_LATER
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(CLOSE_DEADLINE_S):
                await self._websocket.close(code=WSCloseCode.OK if why in ("peer", REPLACED) else code)

    async def _run(self) -> Exception | None:
        """Read and write until either side ends it; return the fault that did."""
        session = self._session
        reader = asyncio.create_task(self._read(), name=f"stream-read-{session.instance}")
        reader.add_done_callback(self._note_end)
        session.ended.add_done_callback(self._note_end)
        session.outbox.on_put = self._begin_writing
        self._begin_writing()
        try:
            await self._is_over
        finally:
            session.outbox.on_put = None
            session.ended.remove_done_callback(self._note_end)
            tasks = [reader, *self._in_work] if self._writer is None else [reader, self._writer, *self._in_work]
            self._writer = None
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        why = self._tell_end()
        session.has_stopped = why == "peer" and self._websocket.close_code == WSCloseCode.GOING_AWAY
        if why != "peer":
            self._metrics.streams_closed.labels(why=why).inc()
        _log.info("stream_closed", instance=session.instance, why=why, close_code=self._websocket.close_code)
        for failure in results:
            if isinstance(failure, TouchmarkError):
                return failure
            if isinstance(failure, Exception) and not isinstance(failure, TimeoutError | ConnectionError):
                return failure
        return None

    def _tell_end(self) -> str:
        """Return why the stream has ended."""
        return self._session.ended.result() if self._session.ended.done() else "peer"

    def _note_end(self, _: object = None) -> None:
        """Take note that a part has ended: so does the whole."""
        if not self._is_over.done():
            self._is_over.set_result(None)

    async def _read(self) -> None:
        taken = 0
        while (message := await receive(self._websocket)) is not None:
            self._session.is_read = False
            taken += 1
            if taken % _TURN == 0:
                await asyncio.sleep(0)
            if not isinstance(message, CertificateRequest):
                await self._messages.answer(self._session, message)
                del message  # Else it is held until another one comes, which may be hours.
                self._session.is_read = True
                continue
            # Its stream ends instead of the request: with another replica, which it finds then, the sidecar asks again.
            self._requests.check_clock()
            while len(self._in_work) >= MAX_REQUESTS_IN_WORK:
                self._has_slot = asyncio.get_running_loop().create_future()
                await self._has_slot
            self._session.is_read = True
            task = asyncio.create_task(self._answer(message), name=f"issue-{self._session.instance}")
            del message
            self._in_work.add(task)
            task.add_done_callback(self._finish_request)

    async def _answer(self, request: CertificateRequest) -> None:
        answer = await self._requests.answer(self._session, request)
        if self._is_writing:
            self._session.send(answer)
        else:  # By this task: another one would only be woken for it.
            self._is_writing = True
            await self._write(answer)

    def _begin_writing(self) -> None:
        if not self._is_writing and len(self._session.outbox):
            self._is_writing = True
            self._writer = asyncio.create_task(self._write(), name=f"stream-write-{self._session.instance}")
            self._writer.add_done_callback(self._finish_writing)

    async def _write(self, answer: FromCA | None = None) -> None:
        """Send what waits, and this behind it, until nothing does.

        ``_is_writing`` is set by the caller, and stays so where it fails: nothing is sent any more.
        """
        if answer is not None:
            self._session.send(answer)
        try:
            while len(self._session.outbox):
                async with asyncio.timeout(SEND_DEADLINE_S):
                    await self._websocket.send_bytes(self._session.outbox.take())
        except TimeoutError:
            self._session.end("slow")
        except ConnectionError:
            self._note_end()
        else:
            self._is_writing = False

    def _finish_writing(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._note_end()
        elif self._writer is task:
            self._writer = None

    def _finish_request(self, task: asyncio.Task[None]) -> None:
        self._in_work.discard(task)
        if self._has_slot is not None and not self._has_slot.done():
            self._has_slot.set_result(None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._metrics.failures.labels(where="issuance").inc()
            _log.error("issuance_failed", instance=self._session.instance, error=repr(error))
            self._session.end("failure")


async def receive(websocket: web.WebSocketResponse) -> FromSidecar | None:
    """Return the next message; None when the peer has left.

    Raises:
        ProtocolError: it isn't a message of ours.
    """
    while (frame := await websocket.receive()).type in (WSMsgType.PING, WSMsgType.PONG):
        if frame.type is WSMsgType.PING:
            await websocket.pong(frame.data)
        await asyncio.sleep(0)  # As between messages: the library would answer 40,000 in one go.
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
