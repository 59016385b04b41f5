"""Makes the parts of a sidecar that has joined, in order: each gets what it needs when it is made.

Belongs here: who knows whom. Doesn't: starting the parts (``serve.py``) and ending them (``drain.py``). No I/O.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from shared.model.errors import UnavailableError
from shared.model.formats.line import choose_writer
from shared.model.wire.messages import FromSidecar, Welcome
from shared.runtime.sinks import LineSink
from shared.runtime.tasks import Tasks
from sidecar.attestor import Attestor
from sidecar.capture.capturing import Capturing, Stories
from sidecar.capture.redirect_table import list_outbound_ports
from sidecar.code_check import look_and_describe
from sidecar.connection.recording import Recorder
from sidecar.connection.registry import LiveConnections
from sidecar.control.dispatch import Dispatch
from sidecar.control.feed import Feed
from sidecar.control.joining import Joining
from sidecar.control.opening import Opener
from sidecar.credential.ahead import AheadOfPeers
from sidecar.credential.credential import Credential
from sidecar.credential.listening import list_listening
from sidecar.credential.store import CredentialStore
from sidecar.events import Events
from sidecar.foreign_inbound import serve_foreign
from sidecar.hostnames.host_names import HostNames
from sidecar.hostnames.resolver import Resolver
from sidecar.inbound import carry_plaintext, serve_tunnel
from sidecar.loaded.looks import CodeLooks
from sidecar.mesh.directory_cache import DirectoryCache
from sidecar.mesh.foreign_trust import ForeignRoots
from sidecar.mesh.policies import Policies
from sidecar.mesh.trust import Trust
from sidecar.outbound import carry_outbound
from sidecar.parts import Limits, Sidecar
from sidecar.rooms import make_rooms
from sidecar.routing.route import Router
from sidecar.routing.service_endpoints import Endpoints
from sidecar.runtime.held_connects import HeldConnects
from sidecar.runtime.prepare import Prepared
from sidecar.settings.configuration import CaptureKind, Configuration, Hold
from sidecar.sightings.reporting import Sightings
from sidecar.sockets.address import Endpoint
from sidecar.tls.handshake_gate import HandshakeGate
from sidecar.tunnel.connector import Connector
from sidecar.tunnel.dial_failures import DialFailures
from sidecar.tunnel.pool import PoolLimits, TunnelPool
from sidecar.tunnel.trace import FrameTrace


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """What a sidecar has once the CA has welcomed it.

    Attributes:
        trust: of the welcome's bundle.
        own: the sidecar's own credential.
    """

    welcome: Welcome
    trust: Trust
    own: Credential


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """The parts that are started and ended.

    Attributes:
        sidecar: what the stories use.
        background: tasks that live as long as the sidecar.
        connection_tasks: the pod's connections.
        tunnel_tasks: accepted tunnels and foreign peers.
        held_connects: None where programs' connections don't wait.
    """

    welcome: Welcome
    sidecar: Sidecar
    opener: Opener
    feed: Feed
    dispatch: Dispatch
    ahead: AheadOfPeers
    capturing: Capturing
    held_connects: HeldConnects | None
    background: Tasks
    connection_tasks: Tasks
    tunnel_tasks: Tasks


def compose(prepared: Prepared, opener: Opener, joined: Joined, events: Events, log_sink: LineSink) -> Composition:
    """Make all parts. Nothing runs yet but the timers of the sidecar's own credential."""
    uplink, limits = opener.uplink, prepared.limits
    background, connection_tasks, tunnel_tasks = Tasks(events.fail), Tasks(events.fail), Tasks(events.fail)
    policies = Policies(
        joined.welcome.state, workload=joined.own.identity.workload, ask=uplink.ask, timeout_s=limits.obtain_s
    )
    directory = DirectoryCache(
        ask=uplink.ask, send=uplink.send, is_connected=lambda: uplink.is_connected, timeout_s=limits.obtain_s
    )
    credentials = CredentialStore(
        joined.own, issuer=uplink, policies=policies, trust=joined.trust, tasks=background, events=events,
        timeout_s=limits.obtain_s,
    )  # fmt: skip
    hosts = HostNames(
        policies,
        service_account=joined.own.identity.workload.service_account,
        resolve=Resolver(nameservers=prepared.nameservers, mark=prepared.mark).resolve,
        tasks=background,
        events=events,
    )
    code = CodeLooks(max_bytes=prepared.configuration.max_executable_bytes, deadline_s=limits.attest_s)
    write = choose_writer(prepared.configuration.log_format)
    sidecar = _make_sidecar(
        prepared,
        joined,
        credentials=credentials,
        policies=policies,
        directory=directory,
        recorder=Recorder(log_sink, send=uplink.send, write=write, note_untold=code.tell_again),
        code=code,
        send=uplink.send,
        trace=FrameTrace(events) if prepared.configuration.traces_frames else None,
        hosts=hosts,
    )
    dispatch = Dispatch(
        uplink=uplink,
        trust=joined.trust,
        foreign=sidecar.foreign,
        policies=policies,
        directory=directory,
        credentials=credentials,
        recorder=sidecar.recorder,
        list_connections=sidecar.connections.describe,
    )
    ahead = AheadOfPeers(
        attestor=sidecar.attestor, credentials=credentials, events=events,
        list_applications=lambda: _list_applications(sidecar), describe=partial(look_and_describe, sidecar),
    )  # fmt: skip
    policies.on_change(sidecar.connections.decide_again)
    policies.on_change(lambda _: ahead.wake())
    policies.on_change(lambda _: hosts.wake())
    joined.trust.on_change(sidecar.connections.check_peers_again)
    joined.trust.on_change(partial(_spawn_keeping, background, opener.joining, joined.trust, events))
    sidecar.foreign.on_change(sidecar.connections.check_peers_again)
    stories = Stories(
        carry_outbound=carry_outbound,
        carry_plaintext=carry_plaintext,
        serve_foreign=serve_foreign,
        serve_tunnel=serve_tunnel,
    )
    return Composition(
        welcome=joined.welcome,
        sidecar=sidecar,
        opener=opener,
        feed=Feed(opener, trust=joined.trust, credentials=credentials, receiver=dispatch, events=events),
        dispatch=dispatch,
        ahead=ahead,
        capturing=Capturing(
            sidecar, prepared.doors, stories, tasks=connection_tasks, tunnels=tunnel_tasks, events=events
        ),
        held_connects=_hold_connects(prepared, sidecar, background, events),
        background=background,
        connection_tasks=connection_tasks,
        tunnel_tasks=tunnel_tasks,
    )


def _spawn_keeping(tasks: Tasks, joining: Joining, trust: Trust, events: Events) -> None:
    tasks.spawn(_keep_roots(joining, trust, events), name="kept roots")


async def _keep_roots(joining: Joining, trust: Trust, events: Events) -> None:
    try:
        await joining.keep_roots(trust.roots)
    except UnavailableError as error:
        events.emit("roots_not_kept", message=error.message, hint=error.hint)


def _make_sidecar(
    prepared: Prepared,
    joined: Joined,
    *,
    credentials: CredentialStore,
    policies: Policies,
    directory: DirectoryCache,
    recorder: Recorder,
    code: CodeLooks,
    send: Callable[[FromSidecar], None],
    trace: FrameTrace | None,
    hosts: HostNames,
) -> Sidecar:
    configuration, limits = prepared.configuration, prepared.limits
    dial_failures = DialFailures(memory_s=limits.dial_failure_memory_s)
    return Sidecar(
        workload=joined.own.identity.workload,
        trust_domain=joined.own.identity.trust_domain,
        instance=configuration.instance,
        attestor=Attestor(max_executable_bytes=configuration.max_executable_bytes, deadline_s=limits.attest_s),
        code=code,
        credentials=credentials,
        directory=directory,
        policies=policies,
        trust=joined.trust,
        recorder=recorder,
        connections=LiveConnections(long_lived_s=limits.long_lived_s),
        connector=_make_connector(limits, dial_failures, joined.trust, mark=prepared.mark, trace=trace),
        router=Router(
            directory=directory,
            endpoints=Endpoints(random.randrange),
            failures=dial_failures,
            tunnel_port=configuration.tunnel_port,
            timeout_s=limits.obtain_s,
        ),
        addresses=frozenset(configuration.tunnel_addresses),
        tunnel_port=configuration.tunnel_port,
        limits=limits,
        rooms=make_rooms(limits.max_connections),
        handshakes=HandshakeGate(limits.max_connections),
        own_ports=_own_ports(configuration),
        applications=_applications(configuration),
        mark=prepared.mark,
        mtls_ports=frozenset(configuration.mtls_ports),
        mtls_destination_ports=frozenset(configuration.mtls_destination_ports),
        foreign=ForeignRoots(),
        trace=trace,
        sightings=Sightings(send=send, tell_code=code.describe),
        hosts=hosts,
    )


def _make_connector(
    limits: Limits, failures: DialFailures, trust: Trust, *, mark: int, trace: FrameTrace | None
) -> Connector:
    pool = TunnelPool(
        PoolLimits(
            max_idle=limits.max_idle_tunnels,
            max_idle_per_key=limits.max_idle_tunnels_per_key,
            idle_s=limits.idle_tunnel_s,
            age_s=limits.tunnel_age_s,
        )
    )
    return Connector(
        pool,
        failures,
        trust,
        mark=mark,
        dial_s=limits.dial_s,
        handshake_s=limits.handshake_s,
        trace=trace,
        key_bytes=limits.key_bytes,
    )


def _hold_connects(prepared: Prepared, sidecar: Sidecar, tasks: Tasks, events: Events) -> HeldConnects | None:
    if prepared.hold is Hold.NEVER:
        return None
    number = prepared.configuration.redirect.outbound_port
    return HeldConnects(sidecar, number, always=prepared.hold is Hold.ALWAYS, tasks=tasks, events=events)


def _own_ports(configuration: Configuration) -> frozenset[int]:
    ports = {configuration.tunnel_port}
    if configuration.health_port is not None:
        ports.add(configuration.health_port)
    if configuration.capture is CaptureKind.REDIRECT:
        redirect = configuration.redirect
        ports.add(redirect.inbound_port)
        ports.update(list_outbound_ports(redirect.outbound_port, redirect.inbound_port, configuration.tunnel_port))
    return frozenset(ports)


def _applications(configuration: Configuration) -> dict[Endpoint, Endpoint] | None:
    if configuration.capture is CaptureKind.REDIRECT:
        return None
    return {each.listen: each.application for each in configuration.inbound}


def _list_applications(sidecar: Sidecar) -> Iterable[Endpoint]:
    if sidecar.applications is not None:
        return sidecar.applications.values()
    found: set[Endpoint] = set()
    for address, port in list_listening():
        if port in sidecar.own_ports:
            continue
        if address in ("0.0.0.0", "::"):
            found.update((each, port) for each in sidecar.addresses if address == "::" or ":" not in each)
        elif address in sidecar.addresses:
            found.add((address, port))
    return found
