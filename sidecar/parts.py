"""The sidecar as one value: everything that the stories (``outbound.py``, ``inbound.py``) need, and its limits.

Belongs here: the composition's shape. Doesn't: starting and stopping it (``sidecar/runtime/``). No I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sidecar.connection.short_senders import ShortSenders
from sidecar.draining import Draining
from sidecar.figures.counts import StoryCounts
from sidecar.mesh.foreign_trust import ForeignRoots
from sidecar.rooms import Rooms, make_rooms
from sidecar.sockets.address import Endpoint
from sidecar.tls.foreign_handshake import ForeignContexts
from sidecar.tls.handshake_gate import HandshakeGate
from sidecar.tls.kept_secrets import Secrets
from sidecar.tls.key_limit import RENEWED_AT_BYTES

if TYPE_CHECKING:
    from shared.model.identity.identity import Workload
    from sidecar.attestor import Attestor
    from sidecar.connection.recording import Recorder
    from sidecar.connection.registry import LiveConnections
    from sidecar.credential.store import CredentialStore
    from sidecar.hostnames.host_names import HostNames
    from sidecar.loaded.looks import CodeLooks
    from sidecar.mesh.directory_cache import DirectoryCache
    from sidecar.mesh.policies import Policies
    from sidecar.mesh.trust import Trust
    from sidecar.routing.route import Router
    from sidecar.sightings.reporting import Sightings
    from sidecar.tunnel.connector import Connector
    from sidecar.tunnel.trace import FrameTrace


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Deadlines in seconds and bounds, each with its reason.

    Attributes:
        max_connections: places in each room (``rooms.py``): connections of the pod's own, tunnels of peers, strangers'
            plaintext connections, unfinished handshakes.
        client_hello_s: a peer that sends no whole ClientHello by then is closed: silent peers hold a descriptor.
        handshake_s: the whole TLS handshake, either side.
        dial_s: TCP connect to a sidecar, an application or a destination outside the mesh.
        open_s: OPEN to ACCEPT or REFUSE.
        attest_s: how long attestations, hashing included, may wait while none of their steps finishes.
        host_s: how long a connection that explicit mode would refuse waits for what the rules' host names resolve to.
        obtain_s: an answer of the CA that a connection waits for (credential, directory, policy).
        drain_s: how long live connections may finish after SIGTERM.
        idle_timeout_s, max_duration_s: how long a connection may be idle, or live; 0: as long as the applications want.
        reset_s: how long a reset waits for the bytes before it to leave the kernel.
        idle_tunnel_s: an idle tunnel is closed after it.
        tunnel_age_s: a tunnel older than it isn't reused.
        max_idle_tunnels: in the pool, over all destinations.
        max_idle_tunnels_per_key: in the pool, for one identity and destination.
        dial_failure_memory_s: how long a program's failed tunnel dial is remembered.
        long_lived_s: a connection older than it gets a start record.
        key_bytes: a tunnel that has encrypted so much with one key makes new ones.
    """

    max_connections: int = 4096
    client_hello_s: float = 5.0
    handshake_s: float = 10.0
    dial_s: float = 10.0
    open_s: float = 15.0
    attest_s: float = 10.0
    host_s: float = 3.0
    obtain_s: float = 10.0
    drain_s: float = 20.0
    idle_timeout_s: float = 0.0
    max_duration_s: float = 0.0
    reset_s: float = 5.0
    idle_tunnel_s: float = 60.0
    tunnel_age_s: float = 900.0
    max_idle_tunnels: int = 512
    max_idle_tunnels_per_key: int = 64
    dial_failure_memory_s: float = 5.0
    long_lived_s: float = 10.0
    key_bytes: int = RENEWED_AT_BYTES


@dataclass(kw_only=True)
class Sidecar:
    """One running sidecar.

    Attributes:
        workload: whose programs it serves.
        trust_domain: the CA's.
        instance: names this sidecar in decisions.
        code: what programs have loaded.
        connector: tunnels to other sidecars.
        router: which endpoint of a Service a connection goes to.
        addresses: the IP addresses at which its tunnel port answers; textual, normalised.
        tunnel_port: the tunnel's port here, and the default one elsewhere.
        own_ports: ports on which the sidecar itself listens; never a destination of OPEN.
        applications: with explicit listeners: where the application behind (address, port) really listens; None under
            redirect, where that is the address itself.
        mark: SO_MARK for the sidecar's own outgoing sockets; 0 for none.
        mtls_ports: destination ports at which only plain mTLS is served to peers without a tunnel.
        mtls_destination_ports: dialled ports towards which plain mTLS is spoken, outside the mesh.
        foreign: other trust domains' roots.
        draining: has begun when the sidecar ends.
        trace: of the frames of tunnels that are served here; None for none.
        rooms: how many connections of each class may live.
        counts: of what the stories do.
        handshakes: of peers that arrive.
        secrets: of those handshakes, for later ones of the same peers.
        sightings: tells the CA of programs; None: nobody is told.
        hosts: what the names in egress rules resolve to; None: no name does.
        short_senders: where programs were gone before they could be looked at.
    """

    workload: Workload
    trust_domain: str
    instance: str
    attestor: Attestor
    code: CodeLooks
    credentials: CredentialStore
    directory: DirectoryCache
    policies: Policies
    trust: Trust
    recorder: Recorder
    connections: LiveConnections
    connector: Connector
    router: Router
    addresses: frozenset[str]
    tunnel_port: int
    limits: Limits = field(default_factory=Limits)
    rooms: Rooms = field(default_factory=lambda: make_rooms(Limits().max_connections))
    counts: StoryCounts = field(default_factory=StoryCounts)
    handshakes: HandshakeGate = field(default_factory=lambda: HandshakeGate(Limits().max_connections))
    secrets: Secrets = field(default_factory=Secrets)
    own_ports: frozenset[int] = frozenset()
    applications: Mapping[Endpoint, Endpoint] | None = None
    mark: int = 0
    mtls_ports: frozenset[int] = frozenset()
    mtls_destination_ports: frozenset[int] = frozenset()
    foreign: ForeignRoots = field(default_factory=ForeignRoots)
    foreign_contexts: ForeignContexts = field(default_factory=ForeignContexts)
    draining: Draining = field(default_factory=Draining)
    trace: FrameTrace | None = None
    sightings: Sightings | None = None
    hosts: HostNames | None = None
    short_senders: ShortSenders = field(default_factory=ShortSenders)

    def application_of(self, address: str, port: int) -> Endpoint | None:
        """Return where the application that answers at ``address:port`` listens; None when it isn't served here."""
        if address not in self.addresses or port in self.own_ports:
            return None
        if self.applications is None:
            return address, port
        return self.applications.get((address, port))
