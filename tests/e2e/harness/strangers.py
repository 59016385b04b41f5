"""Peers that speak the tunnel by hand: whatever a broken or hostile sidecar could say. Blocking, with deadlines.

``Member`` joins the mesh with a real token and holds real credentials, but does what the test wants; ``dial`` makes one
TLS connection with any credential; ``Raw`` reads and writes frames on it.
"""

from __future__ import annotations

import asyncio
import select
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from ca.authority.authorities import Authorities
from ca.authority.kek import load_key_encryption_key
from ca.store.store import Store
from shared.model.identity.program import Program
from shared.model.trust.join_token import parse_join_token
from shared.model.wire.messages import CertificateIssued, CertificateRefused, ProgramEvidence, Registration, Welcome
from shared.runtime.sinks import LineSink
from sidecar.control.joining import ByJoinToken
from sidecar.control.link import Link
from sidecar.control.opening import Opener, join
from sidecar.control.uplink import Uplink
from sidecar.credential.credential import KeyRequest, make_key_request
from sidecar.events import Events
from sidecar.tunnel.frames import HEADER, FrameType, Opening, decode_refusal, encode_frame, encode_opening
from tests.e2e.harness.mesh import Mesh
from tests.e2e.harness.pods import Pod
from tests.sidecar.little_ca import Authority

TUNNEL_PORT = 15008
ALPN = b"touchmark/1"
_DEADLINE_S = 120.0  # Bounds a failure alone.


class Identity:
    """A key with its chain: what a peer shows.

    Arguments:
        chain: DER, leaf first.
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey, chain: tuple[bytes, ...]) -> None:
        self.key = key
        self.chain = chain

    def make_context(
        self, *, version: int = SSL.TLS1_3_VERSION, alpn: bytes = ALPN, serves: bool = False
    ) -> SSL.Context:
        """Make a context that shows this identity and believes everybody."""
        context = make_plain_context(version=version, alpn=alpn, serves=serves)
        leaf, *others = (x509.load_der_x509_certificate(der) for der in self.chain)
        context.use_certificate(leaf)
        for other in others:
            context.add_extra_chain_cert(other)
        context.use_privatekey(self.key)
        return context


def make_plain_context(*, version: int = SSL.TLS1_3_VERSION, alpn: bytes = ALPN, serves: bool = False) -> SSL.Context:
    """Make a context that shows nothing and believes everybody."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    context.set_verify(SSL.VERIFY_PEER if serves else SSL.VERIFY_NONE, lambda *_: True)
    if serves:
        context.set_alpn_select_callback(lambda _, offered: alpn if alpn in offered else SSL.NO_OVERLAPPING_PROTOCOLS)
    elif alpn:
        context.set_alpn_protos([alpn])
    return context


def dial(pod: Pod, context: SSL.Context, address: str, port: int) -> Raw:
    """Dial the tunnel port at an address from a pod, naming a destination port, and shake hands.

    Raises:
        SSL.Error, OSError: the peer refuses.
    """
    connection = pod.socket()
    connection.settimeout(_DEADLINE_S)
    try:
        connection.connect((address, TUNNEL_PORT))
        connection.setblocking(False)
        tls = SSL.Connection(context, connection)
        tls.set_tlsext_host_name(f"p{port}".encode())
        tls.set_connect_state()
        raw = Raw(connection, tls)
        raw.shake_hands()
    except BaseException:
        connection.close()
        raise
    return raw


class Raw:
    """One TLS connection and its frames."""

    def __init__(self, connection: socket.socket, tls: SSL.Connection) -> None:
        self._connection = connection
        self._tls = tls
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def shake_hands(self) -> None:
        """Finish the handshake."""
        deadline = time.monotonic() + _DEADLINE_S
        while True:
            try:
                self._tls.do_handshake()
                return
            except SSL.WantReadError:
                self._wait(deadline)

    def send(self, kind: FrameType, epoch: int = 0, payload: bytes = b"") -> None:
        """Send a well-formed frame."""
        self._tls.sendall(encode_frame(kind, epoch, payload))

    def send_bytes(self, data: bytes) -> None:
        """Send anything."""
        self._tls.sendall(data)

    def open(self, address: str, port: int, *, epoch: int = 1, source: str = "198.18.0.99") -> None:
        """Send OPEN."""
        opening = Opening(connection="00" * 8, destination=(address, port), source=(source, 40000))
        self.send(FrameType.OPEN, epoch, encode_opening(opening))

    def receive(self) -> tuple[int, int, bytes] | None:
        """Receive one frame: type, epoch, payload; None when the peer has closed."""
        deadline = time.monotonic() + _DEADLINE_S
        while True:
            if len(self._rest) >= HEADER.size:
                kind, epoch, length = HEADER.unpack_from(self._rest)
                if len(self._rest) >= HEADER.size + length:
                    payload = self._rest[HEADER.size : HEADER.size + length]
                    self._rest = self._rest[HEADER.size + length :]
                    return kind, epoch, payload
            try:
                self._rest += self._tls.recv(65536)
            except SSL.WantReadError:
                self._wait(deadline)
            except (SSL.Error, OSError):
                return None

    def receive_refusal(self) -> str:
        """Receive REFUSE and return its reason; else what came instead."""
        frame = self.receive()
        if frame is None or frame[0] != FrameType.REFUSE:
            return f"no refusal: {frame}"
        return decode_refusal(frame[2]).reason.value

    def _wait(self, deadline: float) -> None:
        ready, _, _ = select.select([self._connection], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError("the peer is silent")


class Member:
    """A member of the mesh by a real join token, without a sidecar: its stream stays open in a thread.

    Arguments:
        addresses: that it registers, as a sidecar there would.
    """

    def __init__(self, mesh: Mesh, pod: Pod, workload: str, addresses: tuple[str, ...] = ()) -> None:
        self._token = mesh.admin.make_join_token(workload, addresses).token
        self._pod = pod
        self._registration = Registration(
            instance=f"hand-made-{workload.replace('/', '-')}-{time.monotonic_ns()}", version="test",
            addresses=addresses, tunnel_port=TUNNEL_PORT, capture="listeners",
        )  # fmt: skip
        self._ca = (mesh.network.hub.address, 15443)
        self.own: Identity | None = None
        self.roots: tuple[bytes, ...] = ()

    @contextmanager
    def joined(self, *programs: Program) -> Iterator[list[Identity]]:
        """Join, obtain credentials for these programs, and stay until the context ends."""
        ready, over = threading.Event(), threading.Event()
        identities: list[Identity] = []
        failure: list[BaseException] = []

        async def stay() -> None:
            sink = LineSink(2)
            joining = ByJoinToken(token=parse_join_token(self._token))
            uplink = Uplink(is_join_repeatable=False)
            opener = Opener(ca=self._ca, joining=joining, registration=self._registration, uplink=uplink)
            await join(opener, self._note, Events(sink))
            link = uplink.link
            assert link is not None
            reading = [asyncio.create_task(link.send_queued()), asyncio.create_task(_answer(uplink, link))]
            try:
                for program in programs:
                    wanted = make_key_request()
                    chain = await uplink.request_certificate(
                        wanted.csr, program, ProgramEvidence(), timeout_s=_DEADLINE_S
                    )
                    identities.append(Identity(wanted.key, chain))
                ready.set()
                while not over.is_set():
                    await asyncio.sleep(0.05)
            finally:
                for task in reading:
                    task.cancel()
                await asyncio.gather(*reading, return_exceptions=True)
                await uplink.close()
                await asyncio.to_thread(sink.close, timeout_s=1.0)

        def run() -> None:
            try:
                self._pod.call(lambda: asyncio.run(stay()))
            except BaseException as error:
                failure.append(error)
            finally:
                ready.set()

        thread = threading.Thread(target=run, name="hand-made member")
        thread.start()
        try:
            if not ready.wait(150) or failure:
                raise AssertionError(f"the member couldn't join: {failure}")
            yield identities
        finally:
            over.set()
            thread.join()

    def _note(self, welcome: Welcome, request: KeyRequest) -> None:
        self.own = Identity(request.key, welcome.chain)
        self.roots = welcome.bundle.roots


async def _answer(uplink: Uplink, link: Link) -> None:
    """Take the CA's answers to certificate requests, and nothing else that it says."""
    while True:
        message = await link.receive()
        if isinstance(message, CertificateIssued | CertificateRefused):
            uplink.pending.answer(message)


@contextmanager
def serving(pod: Pod, identity: Identity) -> Iterator[None]:
    """Answer on the pod's tunnel port with an identity, as an impostor does."""
    listener = pod.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((pod.address, TUNNEL_PORT))
    listener.listen()
    context = identity.make_context(serves=True)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.setblocking(False)
            tls = SSL.Connection(context, connection)
            tls.set_accept_state()
            with Raw(connection, tls) as raw:
                try:
                    raw.shake_hands()
                    raw.receive()
                except (SSL.Error, OSError):
                    pass

    thread = threading.Thread(target=accept, name="impostor")
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def steal_issuer(mesh: Mesh, directory: Path) -> Authority:
    """Take the active issuing authority, with its key, out of a copy of the CA's store: to sign what it never would.

    The CA is paused meanwhile: files that are copied one after the other while it writes are no database.
    """
    copy = directory / "stolen"
    mesh.pause_ca()
    try:
        shutil.copytree(mesh.directory / "ca", copy)
    finally:
        mesh.resume_ca()

    async def read() -> Authority:
        store = await Store.open(copy, trust_domain="touchmark.local")
        try:
            kek = load_key_encryption_key(mesh.directory / "kek", copy, sealed_by="")
            active = (await Authorities.open(store, kek, now=time.time())).active
            return Authority(key=active.key, certificate=active.certificate)
        finally:
            await store.close()

    return asyncio.run(read())
