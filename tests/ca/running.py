"""A whole CA on 127.0.0.1 for tests: real TLS, a real store, a client of its stream and one of its admin socket."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec
import websockets
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from websockets.typing import Subprotocol

from ca.runtime.compose import RunningCA
from ca.runtime.run import run_ca
from ca.settings.configuration import Configuration
from shared.model.identity.identity import Workload
from shared.model.identity.program import Program
from shared.model.policy.decision import DecisionRecord, PartyRecord, ProcessRecord, Transport
from shared.model.policy.rules import Direction
from shared.model.trust.join_token import JoinToken, format_join_token
from shared.model.wire.admin import ErrorAnswer
from shared.model.wire.messages import (
    STREAM_PATH,
    ConnectionsQuery,
    ConnectionsReport,
    Enrol,
    FromCA,
    FromSidecar,
    Registration,
    Resume,
    Welcome,
    decode_from_ca,
    encode_message,
)
from shared.model.wire.protocol import list_subprotocols
from tests.ca.migrated import provide_sqlite
from tests.shared.model.policy.records import make_record

WEB = Program(digest="aa" * 32)
CURL = Program(digest="bb" * 32)
OPEN_DEADLINE_S = 60.0  # Some wait in the CA's line meanwhile.
DEADLINE_S = 60.0

_T = TypeVar("_T")


class ShiftedClock:
    """The real time and what a test adds to it, in seconds since the epoch."""

    def __init__(self) -> None:
        self.shift_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.shift_s


@contextlib.asynccontextmanager
async def running_ca(
    directory: Path, *, clock: Callable[[], float] = time.time, is_migrated: bool = True, **options: Any
) -> AsyncIterator[RunningCA]:
    """Run a CA whose files lie in a directory, on a free port of 127.0.0.1.

    Arguments:
        is_migrated: it finds the tables of a new store; else nothing, as at a first start, and makes them itself. A
            database that the options name is left as it is.
    """
    configuration = Configuration(
        data_dir=directory / "data", kek_file=directory / "kek", admin_socket=directory / "admin.sock", port=0
    )
    configuration = replace(configuration, **options)
    if is_migrated and not configuration.database:
        provide_sqlite(configuration.data_dir)
    async with run_ca(configuration, clock=clock) as services:
        yield services


def make_csr() -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    """Make a key and the request that it signs."""
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return key, csr.public_bytes(Encoding.DER)


async def make_token(services: RunningCA, *addresses: str, workload: str = "shop/web") -> str:
    """Make a join token, as the admin API does."""
    now = services.clock()
    namespace, _, account = workload.partition("/")
    record, secret = await services.store.join_tokens.create(
        workload=Workload(namespace=namespace, service_account=account),
        addresses=addresses,
        labels={},
        expires=now + 600,
        now=now,
    )
    return format_join_token(
        JoinToken(
            token_id=record.token_id,
            secret=secret,
            ca=services.listen,
            trust_domain="touchmark.local",
            root_pin=services.authorities.root_pin,
            workload=workload,
        )
    )


def make_registration(instance: str, *addresses: str) -> Registration:
    """Say what a sidecar says of itself."""
    return Registration(instance=instance, version="0", addresses=addresses, tunnel_port=15008, capture="listeners")


def make_client_context(services: RunningCA, pem: Path | None = None) -> ssl.SSLContext:
    """Trust the CA's current roots; with a PEM file show that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=b"".join(services.authorities.bundle().roots))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if pem is not None:
        context.load_cert_chain(pem)
    return context


class FakeSidecar:
    """A sidecar's end of the stream, without anything behind it."""

    def __init__(
        self,
        services: RunningCA,
        context: ssl.SSLContext | None = None,
        *,
        protocols: Sequence[str] | None = None,
        server_name: str = "",
        local_address: str = "",
    ) -> None:
        self.services = services
        self.key, self.csr = make_csr()
        self.chain: tuple[bytes, ...] = ()
        self.connection = websockets.connect(
            f"wss://{services.listen}{STREAM_PATH}",
            ssl=context or make_client_context(services),
            subprotocols=[Subprotocol(name) for name in (list_subprotocols() if protocols is None else protocols)]
            or None,
            proxy=None,
            server_hostname=server_name or services.listen.rpartition(":")[0],
            local_addr=(local_address, 0) if local_address else None,
            open_timeout=OPEN_DEADLINE_S,
            ping_interval=None,  # A busy machine may take longer than its deadline; the CA's own pings are answered.
        )
        self.stream: websockets.ClientConnection

    async def __aenter__(self) -> FakeSidecar:
        self.stream = await self.connection.__aenter__()
        return self

    async def __aexit__(self, *details: object) -> None:
        await self.stream.close()

    async def send(self, *messages: FromSidecar) -> None:
        """Say something to the CA."""
        for message in messages:
            await self.stream.send(encode_message(message))

    async def receive(self) -> FromCA:
        """Return the CA's next message."""
        async with asyncio.timeout(DEADLINE_S):
            return decode_from_ca(await self.stream.recv(decode=False))

    async def expect(self, kind: type[_T]) -> _T:
        """Return the next message of this kind; others are passed over."""
        while True:
            message = await self.receive()
            if isinstance(message, kind):
                return message

    @contextlib.asynccontextmanager
    async def answering(self) -> AsyncIterator[None]:
        """Read and answer as long as the context lasts, as a sidecar that lives: nothing else may read."""

        async def answer() -> None:
            while True:
                message = decode_from_ca(await self.stream.recv(decode=False))
                if isinstance(message, ConnectionsQuery):
                    await self.send(ConnectionsReport(request=message.request, connections=()))

        task = asyncio.create_task(answer(), name="fake-sidecar-answers")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def enrol(self, instance: str, *addresses: str, workload: str = "shop/web") -> Welcome:
        """Join by a token made for it."""
        token = await make_token(self.services, *addresses, workload=workload)
        await self.send(Enrol(token=token, csr=self.csr, registration=make_registration(instance, *addresses)))
        welcome = await self.receive()
        assert isinstance(welcome, Welcome), welcome
        self.chain = welcome.chain
        return welcome

    async def resume(self, instance: str, *addresses: str, installed_sequence: int = 0) -> Welcome:
        """Come again, with the certificate of the TLS handshake."""
        registration = make_registration(instance, *addresses)
        await self.send(Resume(registration=registration, installed_sequence=installed_sequence))
        welcome = await self.receive()
        assert isinstance(welcome, Welcome), welcome
        return welcome

    def write_pem(self, path: Path) -> Path:
        """Write its key and chain, for a later connection."""
        pem = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.write_bytes(pem + b"".join(ssl.DER_cert_to_PEM_cert(der).encode() for der in self.chain))
        return path


class Admin:
    """A client of the admin socket."""

    def __init__(self, services: RunningCA) -> None:
        self._path = str(services.configuration.admin_socket)

    async def __aenter__(self) -> Admin:
        self.session = aiohttp.ClientSession(
            "http://ca", connector=aiohttp.UnixConnector(self._path), timeout=aiohttp.ClientTimeout(total=DEADLINE_S)
        )
        return self

    async def __aexit__(self, *details: object) -> None:
        await self.session.close()

    async def ask(
        self,
        method: str,
        path: str,
        kind: type[_T],
        body: object = None,
        *,
        status: int = 200,
        query: Mapping[str, str] | None = None,
    ) -> _T:
        """Ask and read the answer strictly as ``kind``; another status fails the test."""
        data = None if body is None else body if isinstance(body, bytes) else msgspec.json.encode(body)
        async with self.session.request(method, path, data=data, params=query) as response:
            text = await response.read()
        assert response.status == status, text
        return msgspec.json.decode(text, type=kind)

    async def get(self, path: str, kind: type[_T], **query: str) -> _T:
        """Ask by GET."""
        return await self.ask("GET", path, kind, query=query)

    async def fail(
        self, method: str, path: str, status: int, body: object = None, query: Mapping[str, str] | None = None
    ) -> ErrorAnswer:
        """Ask for something that is refused."""
        return await self.ask(method, path, ErrorAnswer, body, status=status, query=query)

    async def hang_up_on(self, method: str, path: str, body: object, *, is_begun: Callable[[], bool]) -> None:
        """Ask and close the connection without waiting for the answer, once the CA has begun with the question."""
        _, writer = await asyncio.open_unix_connection(self._path)
        data = msgspec.json.encode(body)
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: ca\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        await writer.drain()
        await eventually(is_begun)
        writer.close()
        await writer.wait_closed()
        await asyncio.sleep(0.1)  # The CA sees it meanwhile, or there is nothing to prove.


async def eventually(condition: Any, *, deadline_s: float = DEADLINE_S) -> None:
    """Wait until a condition holds; it may be a coroutine function."""
    async with asyncio.timeout(deadline_s):
        while True:
            result = condition()
            if await result if asyncio.iscoroutine(result) else result:
                return
            await asyncio.sleep(0.01)


def make_decision(connection: str, **changes: Any) -> DecisionRecord:
    """Make the record of a refused connection; change what the test is about."""
    record = make_record(
        time=1_790_000_000.0,
        sidecar="a",
        direction=Direction.INGRESS,
        source=PartyRecord(address="198.18.0.3:41000", workload="shop/web", program=f"sha256:{WEB.digest}"),
        destination=PartyRecord(address="198.18.0.2:5432", workload="shop/db", program=f"sha256:{CURL.digest}"),
        process=ProcessRecord(pid=7, uid=1000, path="/usr/bin/web", digest=WEB.digest),
        transport=Transport.TUNNEL,
        tunnel="t",
        connection=connection,
        issuer="Touchmark issuing authority",
        duration_s=0.25,
    )
    return msgspec.structs.replace(record, **changes)
