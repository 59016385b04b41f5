"""Applications to probe: HTTP that answers what the test says, and gRPC health; real sockets, no fakes of ours."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from shared.model.kubernetes.contract import ProbeTarget
from shared.runtime.memory import load_key
from tests.sidecar.little_ca import make_authority, sign_leaf

Answer = bytes | Callable[[bytes], bytes]


def target(port: int, handler: str = "http", **changes: object) -> ProbeTarget:
    """A probe of the container ``app``."""
    return ProbeTarget(container="app", kind="liveness", handler=handler, port=port, **changes)  # type: ignore[arg-type]


def respond(status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
    """A whole HTTP/1.1 answer."""
    lines = [f"HTTP/1.1 {status} Reason", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(kw_only=True)
class Application:
    """What it answers by path, and every request that it saw."""

    answers: Mapping[str, Answer]
    port: int = 0
    requests: list[bytes] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(request)
            answer = self.answers.get(request.split()[1].decode(), respond(404))
            writer.write(answer(request) if callable(answer) else answer)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(serve: Serve, address: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve until the end of the block, and leave no connection behind; yields the port."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(reader, writer)
        finally:
            writer.transport.abort()
            await asyncio.sleep(0)  # The transport closes its socket by then.
            tasks.discard(task)

    server = await asyncio.start_server(serve_and_close, address, 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0.01)


@asynccontextmanager
async def an_application(
    answers: Mapping[str, Answer], *, address: str = "127.0.0.1", tls: bool = False
) -> AsyncIterator[Application]:
    """Serve until the end of the block."""
    application = Application(answers=answers)
    async with serving(application.serve, address, make_tls() if tls else None) as application.port:
        yield application


def make_tls() -> ssl.SSLContext:
    """A server's context with a certificate that nobody trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = sign_leaf(make_authority("nobody's"), key.public_key(), "spiffe://nobody/x")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_key(context, (leaf.public_bytes(Encoding.DER),), key)
    return context


@dataclass(kw_only=True)
class Health:
    """A gRPC server that knows nothing but health.

    Attributes:
        message: what it answers, with its prefix; None: no message, only trailers.
        status: grpc-status.
    """

    message: bytes | None
    status: str = "0"
    http_status: str = "200"
    requests: list[bytes] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one HTTP/2 connection."""
        http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        http.initiate_connection()
        writer.write(http.data_to_send())
        try:
            while data := await reader.read(65536):
                for event in http.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        self.paths += [str(value) for name, value in event.headers or () if str(name) == ":path"]
                    elif isinstance(event, h2.events.DataReceived):
                        self.requests.append(event.data or b"")
                    elif isinstance(event, h2.events.StreamEnded):
                        http.send_headers(event.stream_id or 1, [(":status", self.http_status)])
                        if self.message is not None:
                            http.send_data(event.stream_id or 1, self.message)
                        trailers = [("grpc-status", self.status), ("grpc-message", "said by the test")]
                        http.send_headers(event.stream_id or 1, trailers, end_stream=True)
                writer.write(http.data_to_send())
        except ConnectionError:
            pass


@asynccontextmanager
async def a_health_server(health: Health) -> AsyncIterator[int]:
    """Serve until the end of the block; yields the port."""
    async with serving(health.serve, "127.0.0.1") as port:
        yield port
