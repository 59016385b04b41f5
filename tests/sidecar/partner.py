"""A foreign trust domain and its programs: real certificates, real TLS by OpenSSL, nothing of a sidecar."""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from OpenSSL import SSL, crypto

from shared.model.identity.foreign import ForeignDomain
from sidecar.capture.captured import Captured
from sidecar.foreign_inbound import serve_foreign
from sidecar.sockets.address import Endpoint
from tests.sidecar.little_ca import Authority, make_authority, sign_leaf
from tests.sidecar.pair import Pair, accept_forever

DOMAIN = "partner.example"
BILLING = f"spiffe://{DOMAIN}/billing"
_PATIENCE_S = 30.0
_VERSION_3 = bytes.fromhex("a003020102")


@dataclass(frozen=True, slots=True, kw_only=True)
class Svid:
    """A key and its chain, leaf first."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    chain: tuple[x509.Certificate, ...]

    def write(self, directory: Path) -> tuple[Path, Path]:
        """Write both as PEM files; return the chain's and the key's."""
        name = secrets.token_hex(4)
        chain, key = directory / f"{name}.pem", directory / f"{name}.key"
        chain.write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in self.chain))
        key.write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return chain, key


@dataclass(kw_only=True)
class Partner:
    """Another trust domain with a CA of its own."""

    domain: str = DOMAIN
    root: Authority = field(default_factory=lambda: make_authority("partner root"))
    issuer: Authority = field(init=False)

    def __post_init__(self) -> None:
        self.issuer = make_authority("partner issuer", self.root)

    @property
    def roots(self) -> ForeignDomain:
        """What our mesh is told of it."""
        return ForeignDomain(trust_domain=self.domain, roots=(self.root.der,))

    @property
    def roots_pem(self) -> bytes:
        """The same as a file."""
        return self.root.certificate.public_bytes(Encoding.PEM)

    def issue(self, uri: str = BILLING, *, life_s: float = 3600, with_issuer: bool = True) -> Svid:
        """Issue a certificate for any URI."""
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = sign_leaf(self.issuer, key.public_key(), uri, life_s=life_s)
        return Svid(key=key, chain=(leaf, self.issuer.certificate) if with_issuer else (leaf,))


def make_context(
    svid: Svid | None, roots: tuple[bytes, ...], *, version: int = SSL.TLS1_3_VERSION, alpn: tuple[bytes, ...] = ()
) -> SSL.Context:
    """A foreign program's context: our mesh's roots are trusted, whoever shows a certificate of them is taken."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_max_proto_version(version)
    context.set_options(SSL.OP_NO_TICKET)
    if svid is not None:
        context.use_certificate(svid.chain[0])
        for certificate in svid.chain[1:]:
            context.add_extra_chain_cert(certificate)
        context.use_privatekey(svid.key)
    store = context.get_cert_store()
    assert store is not None
    for der in roots:
        store.add_cert(crypto.X509.from_cryptography(x509.load_der_x509_certificate(der)))
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *arguments: bool(arguments[-1]))
    if alpn:
        context.set_alpn_protos(list(alpn))
    return context


def add_unparsable(context: SSL.Context, leaf: x509.Certificate) -> None:
    """Have a context present one certificate more, which OpenSSL passes over and others can't read: of version 10."""
    der = bytearray(leaf.public_bytes(Encoding.DER))
    der[der.find(_VERSION_3) + 4] = 9
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # The replacement can't hold such a certificate.
        context.add_extra_chain_cert(crypto.load_certificate(crypto.FILETYPE_ASN1, bytes(der)))


class Program:
    """One end of a TLS connection of a foreign program; blocking, in worker threads."""

    def __init__(self, plain: socket.socket, context: SSL.Context, *, serves: bool = False) -> None:
        plain.settimeout(None)
        self.plain = plain
        self.tls = SSL.Connection(context, plain)
        if serves:
            self.tls.set_accept_state()
        else:
            self.tls.set_connect_state()

    @classmethod
    async def dial(cls, endpoint: Endpoint, context: SSL.Context) -> Program:
        """Connect and make the handshake."""
        plain = await asyncio.to_thread(socket.create_connection, endpoint, _PATIENCE_S)
        program = cls(plain, context)
        try:
            await program.shake_hands()
        except BaseException:
            plain.close()
            raise
        return program

    async def shake_hands(self) -> None:
        """Make the handshake."""
        await asyncio.to_thread(self.tls.do_handshake)

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        await asyncio.to_thread(self.tls.sendall, data)

    async def finish(self) -> None:
        """Say close_notify: our direction ends."""
        await asyncio.to_thread(self.tls.shutdown)

    async def receive(self, count: int) -> bytes:
        """Receive exactly so many bytes.

        Raises:
            SSL.Error: the connection ended before.
        """

        def receive() -> bytes:
            data = b""
            while len(data) < count:
                data += self.tls.recv(count - len(data))
            return data

        return await asyncio.to_thread(receive)

    async def receive_rest(self) -> tuple[bytes, str]:
        """Receive to the end: what came, and how it ended: ``end`` by close_notify, else ``broken``."""

        def receive() -> tuple[bytes, str]:
            data = b""
            while True:
                try:
                    data += self.tls.recv(65536)
                except SSL.ZeroReturnError:
                    return data, "end"
                except (SSL.Error, OSError):
                    return data, "broken"

        return await asyncio.to_thread(receive)

    def identify_peer(self) -> str:
        """The URI in the other end's certificate."""
        leaf = self.tls.get_peer_certificate(as_cryptography=True)
        assert leaf is not None
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return names.get_values_for_type(x509.UniformResourceIdentifier)[0]

    def close(self) -> None:
        """Close the TCP connection, without a word."""
        self.plain.close()


@asynccontextmanager
async def serving_foreigners(pair: Pair) -> AsyncIterator[Endpoint]:
    """A port of the server's sidecar that is declared mTLS, before the pair's application."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    endpoint: Endpoint = listener.getsockname()[:2]

    def on_connection(connection: socket.socket, source: Endpoint) -> None:
        captured = Captured(connection=connection, source=source, destination=endpoint, app_destination=endpoint)
        pair.spawn(serve_foreign(pair.server.sidecar, captured, pair.application))

    acceptor = asyncio.ensure_future(accept_forever(listener, on_connection))
    # The directory lists the server's own address; a foreigner comes from an address that it doesn't.
    pair.server.directory.entries.clear()
    try:
        yield endpoint
    finally:
        acceptor.cancel()
        await asyncio.gather(acceptor, return_exceptions=True)
        listener.close()


async def wait_for_end(connection: socket.socket) -> str:
    """Wait until a plain connection ends: ``end`` or ``reset``."""
    deadline = time.monotonic() + _PATIENCE_S
    loop = asyncio.get_running_loop()
    while time.monotonic() < deadline:
        try:
            if not await loop.sock_recv(connection, 65536):
                return "end"
        except ConnectionResetError:
            return "reset"
    raise TimeoutError("the connection didn't end")
