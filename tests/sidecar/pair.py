"""Two sidecars in one process, on loopback, with real TLS and real certificates; what isn't ours is a fake."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from shared.model.errors import UnavailableError
from shared.model.identity.identity import Identity, IdentityKind, Workload, format_spiffe_id
from shared.model.identity.program import Program
from shared.model.policy.decision import DecisionRecord, Origin
from shared.model.policy.evaluate import NamespacePolicy, compile_namespace
from shared.model.policy.modes import effective_mode
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Approval, Mode, NamespaceState
from shared.model.trust.bundle import TrustBundle
from shared.model.trust.certificate import BundleVerifier
from shared.model.wire.messages import DirectoryEntry, ProgramEvidence
from sidecar.attest.facts import Attestation, AttestationError, Execution, ProcessFacts
from sidecar.attest.netlink.sock_diag import KernelSocket
from sidecar.capture.captured import Captured
from sidecar.connection.registry import LiveConnections
from sidecar.credential.credential import Credential
from sidecar.inbound import carry_plaintext, serve_tunnel
from sidecar.loaded.looks import CodeLooks
from sidecar.native.engine import make_proof
from sidecar.outbound import carry_outbound
from sidecar.parts import Limits, Sidecar
from sidecar.routing.route import Router
from sidecar.routing.service_endpoints import Endpoints
from sidecar.sockets.address import Endpoint
from sidecar.tunnel.connector import Connector
from sidecar.tunnel.dial_failures import DialFailures
from sidecar.tunnel.pool import TunnelPool
from sidecar.tunnel.trace import FrameTrace
from tests.sidecar.little_ca import TRUST_DOMAIN, Authority, make_authority, sign_leaf

if TYPE_CHECKING:
    from sidecar.native._loop import Proof

CLIENT_PROGRAM = Program(digest="a" * 64)
SERVER_PROGRAM = Program(digest="b" * 64)
CLIENT = Workload(namespace="shop", service_account="web")
SERVER = Workload(namespace="shop", service_account="db")
_generations = itertools.count(1)


EXECUTION = Execution(42, 1, 0, 0, 0, 0, 0)


@dataclass(kw_only=True)
class Mint:
    """Root and issuer, and what they sign."""

    root: Authority = field(default_factory=lambda: make_authority("root"))
    issuer: Authority = field(init=False)

    def __post_init__(self) -> None:
        self.issuer = make_authority("issuer", self.root)

    @property
    def bundle(self) -> TrustBundle:
        """The trust bundle with sequence 1."""
        return TrustBundle(trust_domain=TRUST_DOMAIN, sequence=1, roots=(self.root.der,), issuers=(self.issuer.der,))

    def issue(self, identity: Identity, *, life_s: float = 3600, claimed_life_s: float | None = None) -> Credential:
        """Issue a credential; ``claimed_life_s``: what its holder believes."""
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = sign_leaf(self.issuer, key.public_key(), format_spiffe_id(identity), life_s=life_s)
        return Credential(
            identity=identity,
            chain=(leaf.public_bytes(Encoding.DER), self.issuer.der),
            key=key,
            generation=next(_generations),
            not_before=time.time() - 30,
            not_after=time.time() + (life_s if claimed_life_s is None else claimed_life_s),
            issuer="issuer",
        )


def identify(workload: Workload, program: Program | None = None) -> Identity:
    """The identity of a program, or of the workload's sidecar."""
    kind = IdentityKind.PROGRAM if program else IdentityKind.SIDECAR
    return Identity(trust_domain=TRUST_DOMAIN, workload=workload, kind=kind, program=program)


class FakeLooks:
    """What a mover's thread looks at: this process's executable, and a file in place of its memory."""

    def __init__(self) -> None:
        self.maps = os.memfd_create("maps")
        self.directory = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
        os.write(self.maps, b"0")

    def __del__(self) -> None:
        os.close(self.maps)
        os.close(self.directory)

    def find_proof(self, execution: Execution) -> Proof:
        status = os.stat("/proc/self/exe")
        return make_proof(
            self, maps=self.maps, directory=self.directory, device=status.st_dev, inode=status.st_ino, max_age_s=0.0
        )

    def end(self) -> None:
        """From now on it isn't what was attested."""
        os.ftruncate(self.maps, 0)


@dataclass(kw_only=True)
class FakeAttestor:
    """Attests whatever it is told; nobody listens on the ports that are ``silent``."""

    program: Program | None
    reason: Reason = Reason.NO_OWNER
    silent: set[int] = field(default_factory=set)
    shared: AttestationError | None = None
    clears_after_s: float = 0.0
    cleared: int = 0
    acceptor: AttestationError | None = None
    accepts: bool = True
    accepts_after: int | None = None
    acceptors_execution: Execution | None = None
    is_slow: bool = False
    origin: Origin = Origin.CONTAINER
    changed: AttestationError | None = None
    has_let_socket_go: bool = False
    given: AttestationError | None = None
    is_given_dialled: bool = True
    looks: FakeLooks = field(default_factory=FakeLooks)

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "changed" and value is not None:
            self.looks.end()

    def _attestation(self) -> Attestation:
        if self.program is None:
            raise AttestationError("ordered by the test", reason=self.reason)
        process = ProcessFacts(pid=42, start_time=1, uid=1000, path="/usr/bin/it")
        return Attestation(
            program=self.program, process=process, inode=1, cookie=1, execution=EXECUTION, origin=self.origin
        )

    def attest_early(self, source: Endpoint, destination: Endpoint) -> None:
        return None

    async def attest(self, source: Endpoint, destination: Endpoint) -> Attestation:
        return self._attestation()

    def is_clear(self, attestation: Attestation) -> bool:
        return self.shared is None

    async def clear(self, attestation: Attestation) -> None:
        self.cleared += 1
        if self.clears_after_s:
            await asyncio.sleep(self.clears_after_s)
        if self.shared is not None:
            raise self.shared

    async def refuse_given(self, attestation: Attestation, listener: Attestation | None = None) -> None:
        if self.given is not None and (listener is None) is self.is_given_dialled:
            raise self.given

    def look_at(self, attestation: Attestation) -> float:
        if self.changed is not None:
            raise self.changed
        return time.monotonic()

    def has_let_go(self, attestation: Attestation) -> bool:
        return self.has_let_socket_go

    def has_listeners_of(self, address: str, port: int, listener: Attestation) -> bool:
        return True

    def find_accepted(self, application: Endpoint, local: Endpoint) -> KernelSocket:
        if self.accepts_after is not None:
            self.accepts_after -= 1
            self.accepts = self.accepts_after < 0
        inode = 2 if self.accepts else 0
        return KernelSocket(family=2, state=1, local=application, peer=local, uid=0, inode=inode, cookie=2)

    def attest_accepted_now(self, found: KernelSocket, listener: Attestation) -> Attestation | None:
        return None if self.is_slow else self._accepted()

    async def attest_accepted(self, found: KernelSocket, listener: Attestation) -> Attestation:
        return self._accepted()

    def _accepted(self) -> Attestation:
        if self.acceptor is not None:
            raise self.acceptor
        accepted = self._attestation()
        if (execution := self.acceptors_execution) is None:
            return accepted
        process = replace(accepted.process, pid=execution.pid)
        return msgspec.structs.replace(accepted, execution=execution, process=process)

    def attest_now(self, source: Endpoint, destination: Endpoint) -> Attestation | None:
        return self._attestation()

    def attest_listener_now(self, address: str, port: int) -> Attestation | None:
        if port in self.silent:
            raise AttestationError("nobody listens there", reason=Reason.NO_LISTENER)
        return self._attestation()


@dataclass(kw_only=True)
class FakeCredentials:
    """Holds credentials by program."""

    own: Credential
    by_program: dict[Program, Credential] = field(default_factory=dict)
    obtained: list[Program] = field(default_factory=list)

    def get(self, program: Program) -> Credential | None:
        return self.by_program.get(program)

    async def obtain_own(self) -> Credential:
        return self.own

    async def obtain(self, program: Program, evidence: ProgramEvidence) -> Credential:
        self.obtained.append(program)
        raise UnavailableError("ordered by the test")


@dataclass(kw_only=True)
class FakeDirectory:
    """Entries as they are known here; ``newer`` are the CA's, which it tells who asks again."""

    entries: dict[str, DirectoryEntry]
    newer: dict[str, DirectoryEntry] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    is_silent: bool = False
    refreshed: list[str] = field(default_factory=list)
    asked_ahead: list[str] = field(default_factory=list)

    def get(self, address: str) -> DirectoryEntry | None:
        if address in self.unknown:
            return None
        return self.entries.get(address, DirectoryEntry(address=address))

    async def look_up(self, address: str, *, is_stranger: bool = False) -> DirectoryEntry:
        raise UnavailableError("ordered by the test")

    def ask_ahead(self, address: str) -> None:
        self.asked_ahead.append(address)

    async def refresh(self, address: str) -> DirectoryEntry:
        self.refreshed.append(address)
        if address in self.newer:
            self.entries[address] = self.newer[address]
        return self.entries.get(address, DirectoryEntry(address=address))


class FakePolicies:
    def __init__(self, namespace: str, states: dict[str, NamespaceState], workload: Workload | None = None) -> None:
        self._namespace = namespace
        self._workload = workload
        self.states = states

    @property
    def own(self) -> NamespacePolicy:
        return compile_namespace(self.states[self._namespace])

    @property
    def mode(self) -> Mode:
        return effective_mode(self.states[self._namespace], self._workload)

    def get(self, namespace: str) -> NamespacePolicy | None:
        state = self.states.get(namespace)
        return compile_namespace(state) if state else None

    async def obtain(self, namespace: str) -> NamespacePolicy:
        raise UnavailableError("ordered by the test")


class FakeTrust:
    def __init__(self, bundle: TrustBundle) -> None:
        self.install(bundle)

    def install(self, bundle: TrustBundle) -> None:
        self.bundle = bundle
        self.verifier = BundleVerifier(bundle)


class FakeRecorder:
    def __init__(self) -> None:
        self.records: list[DecisionRecord] = []

    def record(self, record: DecisionRecord) -> None:
        self.records.append(record)


@dataclass(kw_only=True)
class Side:
    """One sidecar with its fakes by their own types."""

    sidecar: Sidecar
    attestor: FakeAttestor
    credentials: FakeCredentials
    directory: FakeDirectory
    policies: FakePolicies
    trust: FakeTrust
    recorder: FakeRecorder

    @property
    def records(self) -> list[DecisionRecord]:
        """What it recorded."""
        return self.recorder.records


Application = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(kw_only=True)
class Pair:
    """A client's sidecar and a server's, with an application behind the latter.

    Attributes:
        application: where the application listens.
        destination: what the client's program dials; None: the application.
        tunnel: where the server's sidecar serves tunnels.
        entrance: where the client's program connects to.
        is_entrance_exposed: clients outside the pod reach it as well.
    """

    mint: Mint
    client: Side
    server: Side
    states: dict[str, NamespaceState]
    application: Endpoint = ("", 0)
    destination: Endpoint | None = None
    tunnel: Endpoint = ("", 0)
    entrance: Endpoint = ("", 0)
    is_entrance_exposed: bool = False
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    tunnels_accepted: int = 0

    def set_state(self, state: NamespaceState) -> None:
        """Change a namespace's state for both sides."""
        self.states[state.namespace] = state

    def spawn(self, story: Any) -> None:
        """Run a story; a failure shows in the test."""
        task = asyncio.get_running_loop().create_task(story)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect as the client's program."""
        return await asyncio.open_connection(*self.entrance)


def approve(*pairs: tuple[Workload, Program], namespace: str = "shop", **changes: Any) -> NamespaceState:
    """A state that approves these programs."""
    approvals = tuple(Approval(service_account=w.service_account, program=p) for w, p in pairs)
    return NamespaceState(namespace=namespace, version=1, approvals=approvals, **changes)


def _make_side(
    mint: Mint,
    workload: Workload,
    program: Program,
    states: dict[str, NamespaceState],
    limits: Limits,
    trace: FrameTrace | None,
) -> Side:
    attestor = FakeAttestor(program=program)
    credentials = FakeCredentials(
        own=mint.issue(identify(workload)), by_program={program: mint.issue(identify(workload, program))}
    )
    directory = FakeDirectory(entries={})
    policies = FakePolicies(workload.namespace, states, workload)
    trust = FakeTrust(mint.bundle)
    recorder = FakeRecorder()
    failures = DialFailures(memory_s=limits.dial_failure_memory_s)
    sidecar = Sidecar(
        workload=workload,
        trust_domain=TRUST_DOMAIN,
        instance=workload.service_account,
        attestor=cast("Any", attestor),
        code=CodeLooks(),
        credentials=cast("Any", credentials),
        directory=cast("Any", directory),
        policies=cast("Any", policies),
        trust=cast("Any", trust),
        recorder=cast("Any", recorder),
        connections=LiveConnections(),
        connector=Connector(
            TunnelPool(),
            failures,
            cast("Any", trust),
            mark=0,
            dial_s=limits.dial_s,
            handshake_s=limits.handshake_s,
            trace=trace,
            key_bytes=limits.key_bytes,
        ),
        router=Router(
            directory=cast("Any", directory),
            endpoints=Endpoints(random.randrange),
            failures=failures,
            tunnel_port=0,
            timeout_s=limits.obtain_s,
        ),
        addresses=frozenset({"127.0.0.1"}),
        tunnel_port=0,
        limits=limits,
        trace=trace,
    )
    return Side(
        sidecar=sidecar,
        attestor=attestor,
        credentials=credentials,
        directory=directory,
        policies=policies,
        trust=trust,
        recorder=recorder,
    )


async def accept_forever(listener: socket.socket, handle: Callable[[socket.socket, Endpoint], None]) -> None:
    """A plain accept loop for tests."""
    loop = asyncio.get_running_loop()
    while True:
        connection, address = await loop.sock_accept(listener)
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        handle(connection, (address[0], address[1]))


def _listen(address: str) -> socket.socket:
    listener = socket.create_server((address, 0))
    listener.setblocking(False)
    return listener


@asynccontextmanager
async def running_pair(
    application: Application,
    *,
    limits: Limits | None = None,
    traces: tuple[FrameTrace | None, FrameTrace | None] = (None, None),
) -> AsyncIterator[Pair]:
    """Run both sidecars and an application; at the end every task must end by itself.

    Arguments:
        traces: of the client's and the server's tunnel frames.
    """
    opened_before = _list_sockets()
    mint = Mint()
    states = {"shop": approve((CLIENT, CLIENT_PROGRAM), (SERVER, SERVER_PROGRAM))}
    bounds = limits or Limits(client_hello_s=60, handshake_s=60, open_s=60, dial_s=60, reset_s=60)
    pair = Pair(
        mint=mint,
        client=_make_side(mint, CLIENT, CLIENT_PROGRAM, states, bounds, traces[0]),
        server=_make_side(mint, SERVER, SERVER_PROGRAM, states, bounds, traces[1]),
        states=states,
    )
    server = await asyncio.start_server(cast("Any", application), "127.0.0.1", 0)
    pair.application = server.sockets[0].getsockname()[:2]
    tunnels, entrances = _listen("127.0.0.1"), _listen("127.0.0.1")
    pair.tunnel, pair.entrance = tunnels.getsockname()[:2], entrances.getsockname()[:2]
    pair.client.directory.entries["127.0.0.1"] = DirectoryEntry(
        address="127.0.0.1",
        namespace=SERVER.namespace,
        service_account=SERVER.service_account,
        tunnel_port=pair.tunnel[1],
    )
    own_ports = frozenset({pair.tunnel[1], pair.entrance[1]})
    pair.server.sidecar = replace(pair.server.sidecar, tunnel_port=pair.tunnel[1], own_ports=own_ports)

    def on_tunnel(connection: socket.socket, source: Endpoint) -> None:
        pair.tunnels_accepted += 1
        pair.spawn(serve_tunnel(pair.server.sidecar, connection, source, pair.tunnel))

    def on_entrance(connection: socket.socket, source: Endpoint) -> None:
        destination = pair.destination or pair.application
        captured = Captured(
            connection=connection,
            source=source,
            destination=destination,
            app_destination=pair.entrance,
            may_be_remote=pair.is_entrance_exposed,
        )
        pair.spawn(carry_outbound(pair.client.sidecar, captured))

    acceptors = [
        asyncio.ensure_future(accept_forever(tunnels, on_tunnel)),
        asyncio.ensure_future(accept_forever(entrances, on_entrance)),
    ]
    try:
        yield pair
    finally:
        for task in acceptors:
            task.cancel()
        await asyncio.gather(*acceptors, return_exceptions=True)
        pair.client.sidecar.connector.close()
        try:
            async with asyncio.timeout(120):
                while pair.tasks:
                    await asyncio.gather(*pair.tasks)
                    await asyncio.sleep(0)
        finally:
            server.close()
            tunnels.close()
            entrances.close()
        await _closed_since(opened_before)


def _list_sockets() -> set[str]:
    """List this process's sockets by their inodes."""
    links = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # The listing's own descriptor.
            links.add(os.readlink(f"/proc/self/fd/{name}"))
    return {link for link in links if link.startswith("socket:")}


async def _closed_since(before: set[str]) -> None:
    """Wait until what was opened since is closed: after its delivery, or by its transport in the loop's next turns.

    What a test leaves open is waited for as well, and then blamed on it.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(60):
            while _list_sockets() - before:
                await asyncio.sleep(0.005)


__all__ = ["Captured", "carry_outbound", "carry_plaintext", "serve_tunnel"]
