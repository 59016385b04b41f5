"""A sidecar's one WebSocket: accept → first message → session → conversation until either side ends it. I/O.

The messages are those of ``shared.model.wire.messages``. Everything is bounded: the first message and every write have
a deadline, silence is ended by the heartbeat, requests in work and messages that wait have a limit, and a message that
can't be decoded ends the stream with a ``Refusal``.

Belongs here: the HTTP side, and refusing. Doesn't: who may join (``joining.py``), or what is said afterwards
(``conversation.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import ssl
from collections.abc import Callable
from typing import Final

import structlog
from aiohttp import WSCloseCode, web
from cryptography import x509

from ca.allowance import StreamsUsedError
from ca.api.stream.certificate_requests import CertificateRequests
from ca.api.stream.conversation import CLOSE_DEADLINE_S, Conversation, receive
from ca.api.stream.joining import Joining
from ca.api.stream.messages import SidecarMessages
from ca.authenticate.renewal_key import Channel
from ca.connections import ConnectionRoom
from ca.distribution.hub import Hub
from ca.distribution.session import Session
from ca.kubernetes.view import ClusterView
from ca.metrics import Metrics
from ca.places import NoPlaceError, Places
from shared.model.errors import ProtocolError, TouchmarkError, UnavailableError
from shared.model.trust.renewal import NONCE_BYTES, NONCE_HEADER, format_nonce
from shared.model.wire.messages import MAX_MESSAGE_BYTES, FromSidecar, Refusal, Resume, encode_message
from shared.model.wire.protocol import choose_protocol, name_subprotocol

FIRST_MESSAGE_DEADLINE_S: Final = 10.0
HEARTBEAT_S: Final = 20.0
# Streams whose first message hasn't come yet: strangers take no more memory than this many messages. Those that show a
# certificate of the mesh in the handshake have as many places of their own, and a line: after a restart of the CA all
# sidecars come at once, and one that was turned away costs another handshake. The line takes at most half of what these
# leave of the listener's places, so that probes and newcomers get in, also where memory allows the fewest.
MAX_UNAUTHENTICATED: Final = 128
MAX_MEMBERS_WAITING: Final = 8_192


def count_line(limit: int) -> int:
    """Return how many sidecars may wait for a place, of so many connections at the listener."""
    return max(1, min(MAX_MEMBERS_WAITING, (limit - 2 * MAX_UNAUTHENTICATED) // 2))


_log = structlog.get_logger("touchmark.ca")


class StreamEndpoint:
    """The handler behind ``STREAM_PATH``.

    Arguments:
        find_certificate: returns the server's certificate (DER) that a TLS context shows; None: it isn't known.
        check_clock: raises ``UnavailableError`` where certificates can't be judged by this CA's clock.
        note_ended: called for each WebSocket that has ended, once nothing holds it any more but its connection.
    """

    def __init__(
        self,
        *,
        joining: Joining,
        messages: SidecarMessages,
        requests: CertificateRequests,
        hub: Hub,
        cluster: ClusterView,
        max_streams: int,
        metrics: Metrics,
        room: ConnectionRoom,
        find_certificate: Callable[[ssl.SSLContext], bytes | None],
        note_ended: Callable[[], None],
        check_clock: Callable[[], None] = lambda: None,
    ) -> None:
        self._joining = joining
        self._messages = messages
        self._requests = requests
        self._hub = hub
        self._cluster = cluster
        self._max_streams = max_streams
        self._find_certificate = find_certificate
        self._note_ended = note_ended
        self._check_clock = check_clock
        self._metrics = metrics
        self._strangers = Places(MAX_UNAUTHENTICATED)
        self._room = room
        self._members = Places(MAX_UNAUTHENTICATED, line=count_line(room.limit))

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Serve one stream until it ends. Refuses with 503 when a stated limit is reached."""
        if len(self._hub) >= self._max_streams:
            return self._turn_away()
        if not self._cluster.is_synced:
            # A pod that isn't known would be refused as if it were gone: it has to wait for what isn't read yet.
            self._metrics.streams_refused.labels(code="unsynced").inc()
            return web.Response(status=503, text="the cluster isn't read yet\n", headers={"Retry-After": "2"})
        try:
            self._check_clock()
        except UnavailableError as error:
            self._metrics.streams_refused.labels(code="clock").inc()
            return web.Response(status=503, text=f"{error.message}\n", headers={"Retry-After": "5"})
        offered = request.headers.getall("Sec-WebSocket-Protocol", [])
        try:
            protocol = choose_protocol(name for header in offered for name in header.split(","))
        except ProtocolError as error:
            self._metrics.streams_refused.labels(code=error.code).inc()
            _log.info("stream_refused", code=error.code, message=error.message)
            return web.Response(status=400, text=f"{error.message}: {error.hint}\n")
        websocket = web.WebSocketResponse(
            protocols=(name_subprotocol(protocol),) if offered else (),
            heartbeat=HEARTBEAT_S,
            timeout=CLOSE_DEADLINE_S,
            max_msg_size=MAX_MESSAGE_BYTES,
            compress=False,
            autoping=False,  # ``receive`` answers.
        )
        if not websocket.can_prepare(request):
            return web.Response(status=426, text="a WebSocket, please\n", headers={"Upgrade": "websocket"})
        try:
            return await self._serve(request, websocket, protocol)
        finally:
            _part(request, websocket)
            self._note_ended()

    async def _serve(self, request: web.Request, websocket: web.WebSocketResponse, protocol: int) -> web.StreamResponse:
        try:
            session = await self._open(request, websocket, protocol)
        except NoPlaceError:
            return self._turn_away()
        except TouchmarkError as error:
            await self._refuse(websocket, error)
            return websocket
        self._room.release(request.protocol)  # It counts among the streams now.
        try:
            await Conversation(
                websocket, session, messages=self._messages, requests=self._requests, metrics=self._metrics
            ).run()
        except TouchmarkError as error:
            await self._refuse(websocket, error, instance=session.instance)
        finally:
            await self._joining.close(session)
        return websocket

    async def _open(self, request: web.Request, websocket: web.WebSocketResponse, protocol: int) -> Session:
        """Open a session by the first message. Apart: what that needs isn't held for as long as the stream lives.

        Raises:
            NoPlaceError: there are too many.
            TouchmarkError: the peer is to be refused.
        """
        channel = self._describe_channel(request) if protocol > 1 else None
        if channel is not None:
            websocket.headers[NONCE_HEADER] = format_nonce(channel.nonce)
        message = await self._receive_first(request, websocket)
        leaf = _peer_certificate(request) if isinstance(message, Resume) else None
        return await self._joining.open(message, leaf, protocol=protocol, origin=request.remote or "", channel=channel)

    def _describe_channel(self, request: web.Request) -> Channel | None:
        connection = _get_tls(request)
        shown = None if connection is None else self._find_certificate(connection.context)
        return None if shown is None else Channel(nonce=secrets.token_bytes(NONCE_BYTES), server_certificate=shown)

    def _turn_away(self) -> web.Response:
        self._metrics.streams_refused.labels(code="overloaded").inc()
        return web.Response(status=503, text="overloaded\n", headers={"Retry-After": "5"})

    async def _receive_first(self, request: web.Request, websocket: web.WebSocketResponse) -> FromSidecar | None:
        places = self._strangers if _peer_certificate(request) is None else self._members
        try:
            async with places.take(request.remote, deadline_s=FIRST_MESSAGE_DEADLINE_S):
                if len(self._hub) >= self._max_streams:  # Reached while this one waited in line.
                    raise NoPlaceError
                try:
                    await websocket.prepare(request)
                except ConnectionError as error:  # It went away while it waited, as a sidecar does after ten seconds.
                    raise NoPlaceError from error
                return await receive(websocket)
        except TimeoutError as error:
            raise ProtocolError("no first message in time") from error

    async def _refuse(self, websocket: web.WebSocketResponse, error: TouchmarkError, *, instance: str = "") -> None:
        self._metrics.streams_refused.labels(code=error.code).inc()
        if not isinstance(error, StreamsUsedError):  # Who comes too often is named by a bounded number of lines.
            _log.info("stream_refused", code=str(error.reason), message=error.message, instance=instance)
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(CLOSE_DEADLINE_S):
                await websocket.send_bytes(
                    encode_message(Refusal(code=str(error.reason), message=error.message, hint=error.hint))
                )
                await websocket.close(code=WSCloseCode.POLICY_VIOLATION, message=error.code.encode())


def _part(request: web.Request, websocket: web.WebSocketResponse) -> None:
    """Part a connection from its WebSocket, which has ended: aiohttp leaves each holding the other.

    Thousands of streams that end at once, with the buffers of their TLS connections, would stay until the garbage
    collector comes: 60 KiB each, beside those that come in their place. Where the CA closes one, the peer's answer to
    that begins aiohttp's heartbeat anew, which holds it for another 30 s; and the error of a connection that broke,
    which is kept, holds what it went through.
    """
    with contextlib.suppress(AttributeError):  # Another release of aiohttp.
        request.protocol._data_received_cb = None
        websocket._cancel_heartbeat()
        websocket._exception = None


def _get_tls(request: web.Request) -> ssl.SSLObject | None:
    transport = request.transport
    return transport.get_extra_info("ssl_object") if transport is not None else None


def _peer_certificate(request: web.Request) -> x509.Certificate | None:
    connection = _get_tls(request)
    der = connection.getpeercert(binary_form=True) if connection is not None else None
    if der is None:
        return None
    try:
        return x509.load_der_x509_certificate(der)
    except ValueError as error:
        raise ProtocolError("the client certificate can't be read") from error
