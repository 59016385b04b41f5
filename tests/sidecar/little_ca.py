"""A little CA for the sidecar's tests: a real TLS 1.3 WebSocket server with real certificates, and faults to order."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import secrets
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from shared.model.identity.identity import (
    Identity,
    IdentityKind,
    Workload,
    format_ca_id,
    format_spiffe_id,
    parse_workload,
)
from shared.model.policy.rules import Mode, NamespaceState
from shared.model.trust.bundle import TrustBundle, public_key_digest
from shared.model.trust.join_token import JoinToken, format_join_token, parse_join_token
from shared.model.wire.messages import (
    BundleInstalled,
    CertificateIssued,
    CertificateRefused,
    CertificateRequest,
    Decisions,
    DecisionsStored,
    DirectoryEntry,
    Enrol,
    EnrolPod,
    FromCA,
    FromSidecar,
    Lookup,
    NamespaceChanged,
    NamespaceInstalled,
    Refusal,
    Registration,
    Resume,
    Subscribe,
    Welcome,
    decode_from_sidecar,
    encode_message,
)
from shared.model.wire.protocol import list_subprotocols
from shared.runtime.memory import load_key
from tests.free_ports import free_port

TRUST_DOMAIN = "touchmark.test"
Key = ec.EllipticCurvePrivateKey


def _now() -> datetime.datetime:
    return datetime.datetime.now(tz=datetime.UTC)


@dataclass(kw_only=True)
class Authority:
    """A key with its certificate."""

    key: Key
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


def ask_into(sent: list[FromSidecar]) -> Callable[[FromSidecar], Awaitable[None]]:
    """A CA that takes questions down, and answers none."""

    async def ask(question: FromSidecar) -> None:
        sent.append(question)

    return ask


def make_authority(name: str, issuer: Authority | None = None) -> Authority:
    """Make a root, or an issuing authority under one."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - datetime.timedelta(minutes=1))
        .not_valid_after(_now() + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0 if issuer else None), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    signer = issuer.key if issuer else key
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
    )
    return Authority(key=key, certificate=builder.sign(signer, hashes.SHA256()))


def sign_leaf(
    issuer: Authority,
    public_key: ec.EllipticCurvePublicKey,
    uri: str,
    *,
    life_s: float = 3600,
    addresses: tuple[str, ...] = (),
) -> x509.Certificate:
    """Sign a leaf of the profile (with addresses: the CA's own server certificate)."""
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.certificate.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - datetime.timedelta(seconds=30))
        .not_valid_after(_now() + datetime.timedelta(seconds=life_s))
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
        .sign(issuer.key, hashes.SHA256())
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass(kw_only=True)
class LittleCA:
    """The CA's state, what it saw, and what it is told to do wrong.

    Attributes:
        open_socket: opens the TCP socket to listen on: perhaps in another network namespace.
        is_busy: streams are refused by HTTP.
        is_mute: certificate requests and lookups get no answer.
        refuse_with: the code of a refusal instead of a welcome.
        refuse_resume: sidecars that resume aren't known.
        pod_tokens: the workload that each pod's token proves, as often as it is shown.
        refuse_issuance: the reason of a refusal instead of a certificate.
        protocols: subprotocols that it chooses from; none as in release 0.1.
    """

    host: str = "127.0.0.1"
    port: int = 0
    open_socket: Callable[[], socket.socket] = socket.socket
    root: Authority = field(default_factory=lambda: make_authority("little root"))
    server_uri: str = format_ca_id(TRUST_DOMAIN)
    life_s: float = 3600
    is_busy: bool = False
    refused_by_http: int = 0
    is_mute: bool = False
    refuse_with: str = ""
    refuse_resume: bool = False
    pod_tokens: dict[str, str] = field(default_factory=dict)
    refuse_issuance: str = ""
    states: dict[str, NamespaceState] = field(default_factory=dict)
    entries: dict[str, DirectoryEntry] = field(default_factory=dict)
    protocols: tuple[str, ...] = list_subprotocols()
    received: list[FromSidecar] = field(default_factory=list)
    streams: list[ServerConnection] = field(default_factory=list)
    server_names: list[str | None] = field(default_factory=list)
    issued: int = 0

    def __post_init__(self) -> None:
        self.issuer = make_authority("little issuer", self.root)
        self.sequence = 1
        self.tokens: dict[str, str] = {}

    @property
    def bundle(self) -> TrustBundle:
        return TrustBundle(
            trust_domain=TRUST_DOMAIN, sequence=self.sequence, roots=(self.root.der,), issuers=(self.issuer.der,)
        )

    def make_token(self, workload: str) -> str:
        """Make a join token."""
        token = JoinToken(
            token_id=secrets.token_hex(8),
            secret=secrets.token_urlsafe(32),
            ca=f"{self.host}:{self.port}",
            trust_domain=TRUST_DOMAIN,
            root_pin=public_key_digest(self.root.certificate),
            workload=workload,
        )
        self.tokens[token.token_id] = workload
        return format_join_token(token)

    def lose_everything(self) -> None:
        """Be a new CA of the same name, whose bundles are counted from 1: its store and keys were lost."""
        self.root = make_authority("another root")
        self.issuer = make_authority("another issuer", self.root)
        self.sequence = 1

    @property
    def roots_pem(self) -> bytes:
        """What the CA keeps in the ConfigMap."""
        return self.root.certificate.public_bytes(Encoding.PEM)

    def issue(self, csr: bytes, identity: Identity) -> tuple[bytes, ...]:
        """Issue a chain."""
        self.issued += 1
        key = x509.load_der_x509_csr(csr).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        leaf = sign_leaf(self.issuer, key, format_spiffe_id(identity), life_s=self.life_s)
        return leaf.public_bytes(Encoding.DER), self.issuer.der

    def state(self, namespace: str) -> NamespaceState:
        """Return a namespace's state; a permissive one at first."""
        return self.states.setdefault(namespace, NamespaceState(namespace=namespace, version=1))

    async def set_state(self, state: NamespaceState) -> None:
        """Change a namespace and tell every stream."""
        self.states[state.namespace] = state
        await self.tell(NamespaceChanged(state=state))

    async def tell(self, message: FromCA) -> None:
        """Send a message on every stream."""
        for stream in self.streams:
            await stream.send(encode_message(message), text=True)

    def of_type(self, kind: type[FromSidecar]) -> list[FromSidecar]:
        """Return what was received of one kind."""
        return [message for message in self.received if isinstance(message, kind)]

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[LittleCA]:
        """Serve on a port of ``host`` (the same one when it is served again)."""
        # One that the kernel chose could be another listener's in between.
        self.port = self.port or (free_port(self.host) if self.host.startswith("127.") else 0)
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = sign_leaf(self.issuer, key.public_key(), self.server_uri, addresses=(self.host,))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(cadata=self.root.der + self.issuer.der)
        load_key(context, (leaf.public_bytes(Encoding.DER), self.issuer.der, self.root.der), key)
        context.sni_callback = lambda _connection, name, _context: self.server_names.append(name)
        listener = self.open_socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.host, self.port))
        self.port = listener.getsockname()[1]
        async with serve(
            self._handle,
            sock=listener,
            ssl=context,
            compression=None,
            close_timeout=1,
            process_request=self._admit,
            subprotocols=[Subprotocol(name) for name in self.protocols] or None,
            select_subprotocol=self._choose,
        ):
            yield self

    def _admit(self, stream: ServerConnection, _request: Request) -> Response | None:
        if not self.is_busy:
            return None
        self.refused_by_http += 1
        return stream.respond(503, "not now")

    def _choose(self, _stream: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
        return next((each for each in offered if each in self.protocols), None)

    async def _handle(self, stream: ServerConnection) -> None:
        try:
            first = decode_from_sidecar(_bytes(await stream.recv()))
            self.received.append(first)
            welcome = self._greet(stream, first)
            await stream.send(encode_message(welcome), text=True)
            if not isinstance(welcome, Welcome):
                return
            self.streams.append(stream)
            workload = Workload(namespace=welcome.namespace, service_account=welcome.service_account)
            while True:
                message = decode_from_sidecar(_bytes(await stream.recv()))
                self.received.append(message)
                if (answer := self._answer(message, workload)) is not None:
                    await stream.send(encode_message(answer), text=True)
        except ConnectionClosed:
            pass
        finally:
            if stream in self.streams:
                self.streams.remove(stream)

    def _greet(self, stream: ServerConnection, first: FromSidecar) -> FromCA:
        if self.refuse_with:
            return Refusal(code=self.refuse_with, message="ordered by the test")
        if isinstance(first, Enrol):
            text = self.tokens.pop(parse_join_token(first.token).token_id, "")
            if not text:
                return Refusal(code="refused", message="the join token was spent")
            workload = parse_workload(text)
            identity = Identity(trust_domain=TRUST_DOMAIN, workload=workload, kind=IdentityKind.SIDECAR)
            return self._welcome(workload, first.registration, self.issue(first.csr, identity))
        if isinstance(first, EnrolPod):
            text = self.pod_tokens.get(first.token, "")
            if not text:
                return Refusal(code="refused", message="not a pod's token")
            workload = parse_workload(text)
            identity = Identity(trust_domain=TRUST_DOMAIN, workload=workload, kind=IdentityKind.SIDECAR)
            return self._welcome(workload, first.registration, self.issue(first.csr, identity))
        assert isinstance(first, Resume)
        if self.refuse_resume:
            return Refusal(code="refused", message="this sidecar is not known")
        certificate = stream.transport.get_extra_info("peercert")
        if not certificate:
            return Refusal(code="refused", message="no certificate")
        uri = next(value for kind, value in certificate["subjectAltName"] if kind == "URI")
        _, namespace, _, account = uri.removeprefix(f"spiffe://{TRUST_DOMAIN}/").split("/")[:4]
        return self._welcome(Workload(namespace=namespace, service_account=account), first.registration, ())

    def _welcome(self, workload: Workload, registration: Registration, chain: tuple[bytes, ...]) -> Welcome:
        for address in registration.addresses:
            self.entries[address] = DirectoryEntry(
                address=address,
                namespace=workload.namespace,
                service_account=workload.service_account,
                tunnel_port=registration.tunnel_port,
            )
        return Welcome(
            trust_domain=TRUST_DOMAIN,
            namespace=workload.namespace,
            service_account=workload.service_account,
            chain=chain,
            bundle=self.bundle,
            state=self.state(workload.namespace),
            ca_version="9.8.7" if self.protocols else "",
        )

    def _answer(self, message: FromSidecar, workload: Workload) -> FromCA | None:
        match message:
            case Decisions():
                return DecisionsStored(batch=message.batch)
            case BundleInstalled() | NamespaceInstalled():
                return None
            case _ if self.is_mute:
                return None
            case CertificateRequest() if self.refuse_issuance:
                return CertificateRefused(request=message.request, reason=self.refuse_issuance, message="ordered")
            case CertificateRequest():
                return CertificateIssued(
                    request=message.request, chain=self.issue(message.csr, self._identity(message, workload))
                )
            case Lookup():
                return self.entries.get(message.address, DirectoryEntry(address=message.address))
            case Subscribe():
                return NamespaceChanged(state=self.state(message.namespace))
            case _:
                return None

    def _identity(self, request: CertificateRequest, workload: Workload) -> Identity:
        if request.program is None:
            return Identity(trust_domain=TRUST_DOMAIN, workload=workload, kind=IdentityKind.SIDECAR)
        approved = any(
            each.service_account == workload.service_account and each.program == request.program
            for each in self.state(workload.namespace).approvals
        )
        return Identity(
            trust_domain=TRUST_DOMAIN,
            workload=workload,
            kind=IdentityKind.PROGRAM if approved else IdentityKind.OBSERVED,
            program=request.program,
        )


def _bytes(data: str | bytes) -> bytes:
    return data.encode() if isinstance(data, str) else data


async def until(is_done: Callable[[], object], *, timeout_s: float = 240) -> None:
    """Wait until something holds.

    Raises:
        TimeoutError: it doesn't in time.
    """
    async with asyncio.timeout(timeout_s):
        while not is_done():
            await asyncio.sleep(0.01)


def explicit(namespace: str, version: int) -> NamespaceState:
    """Make an explicit state without rules and approvals."""
    return NamespaceState(namespace=namespace, version=version, mode=Mode.EXPLICIT)
