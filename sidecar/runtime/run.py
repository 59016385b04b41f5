"""Starts a sidecar, lets it run and ends it: join → compose → accept → drain.

Belongs here: the order of these steps. Doesn't: what any part does. Before the event loop: ``prepare`` (what needs
privileges); inside it: ``run``. Longer than most, because the whole composition stands in one place, in its order.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from shared.model.errors import InputError, MachineError, RefusedError
from shared.model.identity.identity import IdentityKind, Workload
from shared.model.trust.join_token import parse_join_token
from shared.model.version import VERSION
from shared.model.wire.messages import Registration, Welcome
from shared.runtime.memory import forbid_dumps, lock_pages
from shared.runtime.sinks import LineSink
from shared.runtime.tasks import Tasks
from sidecar.attest.attestor import Attestor
from sidecar.capture.capturing import Capturing, Door, Stories, close_doors, open_doors
from sidecar.capture.redirect import install_redirect
from sidecar.capture.redirect_table import RedirectRules, list_outbound_ports
from sidecar.connection.recording import Recorder
from sidecar.connection.registry import LiveConnections
from sidecar.control.dispatch import Receiving
from sidecar.control.feed import CertificateExpiredError, Feed
from sidecar.control.joining import ByJoinToken, ByPod, Joining
from sidecar.credential.ahead import AheadOfPeers
from sidecar.credential.credential import Credential, KeyRequest, accept_chain
from sidecar.credential.listening import list_listening
from sidecar.credential.store import CredentialStore
from sidecar.events import Events
from sidecar.foreign_inbound import serve_foreign
from sidecar.inbound import carry_plaintext, serve_tunnel
from sidecar.mesh.directory_cache import Directory
from sidecar.mesh.foreign_trust import ForeignRoots
from sidecar.mesh.policies import Policies
from sidecar.mesh.trust import Trust
from sidecar.outbound import carry_outbound
from sidecar.parts import Limits, Sidecar
from sidecar.probing.readiness import Readiness, Stage
from sidecar.probing.readiness_gate import Withholding
from sidecar.routing.route import Router
from sidecar.routing.service_endpoints import Endpoints
from sidecar.runtime.periodic import watch_ages, watch_holders, watch_programs
from sidecar.runtime.privileges import CAP_NET_ADMIN, KEPT, become_user, keep_only, keep_what_a_pod_gives
from sidecar.settings.parsing import parse_host_port
from sidecar.settings.settings import CaptureKind, Configuration
from sidecar.sockets.address import Endpoint
from sidecar.tunnel.connector import Connector
from sidecar.tunnel.dial_failures import DialFailures
from sidecar.tunnel.pool import PoolLimits, TunnelPool

if TYPE_CHECKING:
    from shared.model.kubernetes.contract import ProbeTarget
    from sidecar.probing.outcome import Outcome
    from sidecar.probing.server import ProbeServer

Joined = tuple[Welcome, Trust, Credential]
_LAST_RECORDS_S = 3.0
_TASKS_END_S = 2.0
_FILES_PER_CONNECTION = 4
_CLOSING_S = 1.0
# Python's default is 700 objects, which live connections alone exceed: it would look for cycles all the time, in vain.
_GC_THRESHOLD = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What was opened while there were privileges.

    Attributes:
        probe_listeners: where the kubelet asks; none without a health port.
        log: descriptor of the decision log.
    """

    configuration: Configuration
    joining: Joining
    ca: tuple[str, int]
    limits: Limits
    doors: list[Door]
    probe_listeners: list[socket.socket]
    log: int
    pages_locked: bool


def prepare(configuration: Configuration) -> Prepared:
    """Do what needs privileges, then give them up. No thread may run yet: capabilities belong to threads.

    Raises:
        InputError: the token or the log file can't be used.
        MachineError: an address can't be had, the redirect can't be installed, privileges can't be dropped.
    """
    joining, ca = _choose_joining(configuration)
    log = 1
    if configuration.log_file is not None:
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            log = os.open(configuration.log_file, flags, 0o640)
        except OSError as error:
            raise InputError(f"can't write the log file {configuration.log_file}: {error.strerror}") from error
    limits = _limit(configuration)
    doors = open_doors(configuration)
    probe_listeners: list[socket.socket] = []
    try:
        if configuration.health_port is not None:
            from sidecar.probing.server import open_probe_listeners  # An HTTP library: only where it is wanted.

            probe_listeners = open_probe_listeners(configuration.health_port)
        if configuration.capture is CaptureKind.REDIRECT:
            _redirect(configuration)
        forbid_dumps()
    except BaseException:
        close_doors(doors)
        for listener in probe_listeners:
            listener.close()
        raise
    return Prepared(
        configuration=configuration,
        joining=joining,
        ca=ca,
        limits=limits,
        doors=doors,
        probe_listeners=probe_listeners,
        log=log,
        pages_locked=lock_pages(),
    )


async def run(prepared: Prepared) -> None:
    """Run until SIGTERM or SIGINT, then drain; a second signal ends the draining.

    Raises:
        RefusedError: the CA refuses the join token; or the sidecar's certificate ended (``CertificateExpiredError``).
        VerificationError: whoever answers isn't the CA that made the token.
    """
    stop = asyncio.Event()
    rush = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: rush.set() if stop.is_set() else stop.set())
    events_sink = LineSink(2)
    log_sink = LineSink(prepared.log)
    try:
        await _run(prepared, Events(events_sink, prepared.configuration.log_level), log_sink, stop, rush)
    finally:
        close_doors(prepared.doors)
        await asyncio.to_thread(log_sink.close, timeout_s=_LAST_RECORDS_S)
        await asyncio.to_thread(events_sink.close, timeout_s=_LAST_RECORDS_S)


async def _run(
    prepared: Prepared, events: Events, log_sink: LineSink, stop: asyncio.Event, rush: asyncio.Event
) -> None:
    configuration, joining = prepared.configuration, prepared.joining
    feed = Feed(
        ca=prepared.ca,
        joining=joining,
        registration=Registration(
            instance=configuration.instance,
            version=VERSION,
            addresses=configuration.tunnel_addresses,
            tunnel_port=configuration.tunnel_port,
            capture=configuration.capture.value,
        ),
        events=events,
        mark=_mark(configuration),
    )
    readiness = Readiness(find_fault=lambda: feed.fault, has_expired=feed.has_expired)
    probe_tasks = Tasks(events.fail)
    withholding = Withholding()
    probes = _start_probes(prepared, readiness, withholding, probe_tasks, events)
    try:
        joined = await _join_or_stop(feed, joining.workload, stop)
        if joined is not None:
            await _carry(prepared, feed, joined, readiness, withholding, events, log_sink, stop, rush)
    finally:
        if probes is not None:
            probes.close()
        await probe_tasks.close(timeout_s=_TASKS_END_S)


async def _carry(
    prepared: Prepared, feed: Feed, joined: Joined, readiness: Readiness, withholding: Withholding, events: Events,
    log_sink: LineSink, stop: asyncio.Event, rush: asyncio.Event,
) -> None:  # fmt: skip
    configuration, mark = prepared.configuration, _mark(prepared.configuration)
    welcome, trust, own = joined
    background = Tasks(events.fail)
    limits = prepared.limits
    feed.credential, feed.roots, feed.installed_sequence = own, welcome.bundle.roots, welcome.bundle.sequence
    policies = Policies(welcome.state, ask=feed.ask, timeout_s=limits.obtain_s)
    directory = Directory(ask=feed.ask, timeout_s=limits.obtain_s)
    recorder = Recorder(log_sink, send=feed.send)
    credentials = CredentialStore(
        own, issuer=feed, policies=policies, trust=trust, tasks=background, events=events, timeout_s=limits.obtain_s
    )
    credentials.on_own_change(feed.renew)
    credentials.on_own_refused(feed.prove_again)
    foreign = ForeignRoots()
    dial_failures = DialFailures(memory_s=limits.dial_failure_memory_s)
    connections = LiveConnections(max_connections=limits.max_connections, long_lived_s=limits.long_lived_s)
    sidecar = Sidecar(
        workload=own.identity.workload,
        trust_domain=own.identity.trust_domain,
        instance=configuration.instance,
        attestor=Attestor(max_executable_bytes=configuration.max_executable_bytes),
        credentials=credentials,
        directory=directory,
        policies=policies,
        trust=trust,
        recorder=recorder,
        connections=connections,
        connector=Connector(
            TunnelPool(
                PoolLimits(
                    max_idle=limits.max_idle_tunnels,
                    max_idle_per_key=limits.max_idle_tunnels_per_key,
                    idle_s=limits.idle_tunnel_s,
                    age_s=limits.tunnel_age_s,
                )
            ),
            dial_failures,
            trust,
            mark=mark,
            dial_s=limits.dial_s,
            handshake_s=limits.handshake_s,
        ),
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
        own_ports=_own_ports(configuration),
        applications=_applications(configuration),
        mark=mark,
        mtls_ports=frozenset(configuration.mtls_ports),
        mtls_destination_ports=frozenset(configuration.mtls_destination_ports),
        foreign=foreign,
    )
    receiving = Receiving(
        feed=feed,
        trust=trust,
        foreign=foreign,
        policies=policies,
        directory=directory,
        credentials=credentials,
        recorder=recorder,
        list_connections=connections.describe,
    )
    feed.on_message, feed.on_welcome = receiving.receive, receiving.resume
    feed.on_joined_again = receiving.join_again
    ahead = AheadOfPeers(
        attestor=sidecar.attestor, credentials=credentials, events=events,
        list_applications=lambda: _list_applications(sidecar),
    )  # fmt: skip
    policies.on_change(connections.decide_again)
    policies.on_change(ahead.wake)
    trust.on_change(connections.check_peers_again)
    foreign.on_change(connections.check_peers_again)
    receiving.acknowledge(welcome)
    expired: CertificateExpiredError | None = None

    def give_up(error: CertificateExpiredError) -> None:
        nonlocal expired
        expired = error
        stop.set()

    background.spawn(_keep_feeding(feed, events, give_up), name="feed")
    background.spawn(ahead.run(), name="credentials ahead of peers")
    background.spawn(watch_ages(sidecar), name="ages")
    background.spawn(watch_holders(sidecar, events), name="holders")
    background.spawn(watch_programs(sidecar, events), name="programs")
    connection_tasks, tunnel_tasks = Tasks(events.fail), Tasks(events.fail)
    capturing = Capturing(
        sidecar,
        prepared.doors,
        Stories(
            carry_outbound=carry_outbound,
            carry_plaintext=carry_plaintext,
            serve_foreign=serve_foreign,
            serve_tunnel=serve_tunnel,
        ),
        tasks=connection_tasks,
        tunnels=tunnel_tasks,
        events=events,
    )
    capturing.start()
    withholding.sidecar = sidecar
    readiness.stage = Stage.SERVING
    gc.collect()
    gc.freeze()  # What lives from the start needn't be walked by every collection.
    gc.set_threshold(_GC_THRESHOLD)
    events.emit(
        "sidecar_ready",
        workload=str(sidecar.workload),
        instance=sidecar.instance,
        capture=configuration.capture.value,
        mode=policies.own.state.mode.value,
        pages_locked=prepared.pages_locked,
        ca_version=feed.ca_version,
    )
    await stop.wait()
    readiness.stage = Stage.DRAINING
    withholding.sidecar = None
    events.emit("sidecar_draining", connections=len(connections))
    capturing.close()
    sidecar.draining.begin()
    await _drain(connections, limits.drain_s, rush)
    connections.close_all()
    sidecar.connector.close()
    await connection_tasks.close(timeout_s=_TASKS_END_S)
    await tunnel_tasks.drain(timeout_s=_CLOSING_S)
    await tunnel_tasks.close(timeout_s=_TASKS_END_S)
    await recorder.close(timeout_s=_LAST_RECORDS_S)
    credentials.close()
    await feed.close()
    await background.close(timeout_s=_TASKS_END_S)
    sidecar.attestor.close()
    events.emit("sidecar_stopped", records_lost=recorder.lost_total + log_sink.lost_lines)
    if expired is not None:
        raise expired


def _start_probes(
    prepared: Prepared, readiness: Readiness, withholding: Withholding, tasks: Tasks, events: Events
) -> ProbeServer | None:
    """Answer the kubelet from now on: it asks while the sidecar still joins."""
    if not prepared.probe_listeners:
        return None
    from sidecar.probing.perform import perform
    from sidecar.probing.server import ProbeServer

    configuration = prepared.configuration
    [address, *_], mark = configuration.tunnel_addresses or ("127.0.0.1",), _mark(configuration)

    async def perform_and_judge(target: ProbeTarget) -> Outcome:
        return await withholding.judge(target, address, await perform(target, address, mark=mark))

    server = ProbeServer(
        prepared.probe_listeners,
        targets=configuration.probes,
        judge=readiness.judge,
        perform=perform_and_judge,
        tasks=tasks,
        events=events,
    )
    server.start()
    return server


async def _join_or_stop(feed: Feed, expected: Workload, stop: asyncio.Event) -> Joined | None:
    def accept(welcome: Welcome, request: KeyRequest) -> Joined:
        trust = Trust(welcome.bundle)
        return welcome, trust, _own_credential(welcome, request, trust, expected)

    joining = asyncio.create_task(feed.join(accept), name="join")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({joining, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return joining.result() if joining.done() else None
    finally:
        for task in (joining, stopping):
            task.cancel()
        await asyncio.wait({joining, stopping})


async def _keep_feeding(feed: Feed, events: Events, on_expiry: Callable[[CertificateExpiredError], None]) -> None:
    while True:
        try:
            await feed.run()
            return
        except CertificateExpiredError as error:
            events.emit("certificate_expired", message=error.message, hint=error.hint)
            on_expiry(error)
            return
        except Exception as error:  # A fault of ours must not leave the sidecar deaf for ever.
            events.fail("feed", error)
            await asyncio.sleep(1)


async def _drain(connections: LiveConnections, timeout_s: float, rush: asyncio.Event) -> None:
    deadline = time.monotonic() + timeout_s
    while len(connections) and time.monotonic() < deadline and not rush.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await rush.wait()


def _choose_joining(configuration: Configuration) -> tuple[Joining, tuple[str, int]]:
    """Return how to join, and where.

    Raises:
        InputError: the join token can't be read.
    """
    options = configuration.pod
    if options is None or configuration.ca is None:
        token = parse_join_token(configuration.token or "")
        return ByJoinToken(token=token), configuration.ca or parse_host_port(token.ca)
    joining = ByPod(
        token_file=options.token_file,
        trust_file=options.trust_file,
        trust_domain=options.trust_domain,
        workload=options.pod.workload,
    )
    return joining, configuration.ca


def _own_credential(welcome: Welcome, request: KeyRequest, trust: Trust, expected: Workload) -> Credential:
    own = accept_chain(request, welcome.chain, verifier=trust.verifier, generation=1, now=time.time())
    if own.identity.kind is not IdentityKind.SIDECAR or own.identity.workload != expected:
        raise RefusedError(f"the CA enrolled this sidecar as {own.identity.workload} and not as {expected}")
    return own


def _limit(configuration: Configuration) -> Limits:
    """Raise the limit on open files as far as it goes, and keep the number of connections below it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    limits = Limits(drain_s=configuration.drain_s)
    most = hard // _FILES_PER_CONNECTION
    wanted = configuration.max_connections
    if wanted is not None and wanted > most:
        raise MachineError(
            f"{wanted} connections need {wanted * _FILES_PER_CONNECTION} open files, and the limit is {hard}",
            hint="a higher `ulimit -n`, or a lower limits.maxConnections",
        )
    return replace(limits, max_connections=min(most, limits.max_connections) if wanted is None else wanted)


def _redirect(configuration: Configuration) -> None:
    options = configuration.redirect
    if options.is_installed:
        keep_what_a_pod_gives(options.uid)
        return
    rules = RedirectRules(
        outbound_port=options.outbound_port,
        inbound_port=options.inbound_port,
        tunnel_port=configuration.tunnel_port,
        uid=options.uid,
        mark=options.mark,
        health_port=configuration.health_port,
        exclude_ports=options.exclude_ports,
    )
    install_redirect(rules)
    if options.mark is None:
        become_user(options.uid)
    else:
        keep_only(KEPT | 1 << CAP_NET_ADMIN)  # SO_MARK asks for it at every socket.


def _mark(configuration: Configuration) -> int:
    return (configuration.redirect.mark or 0) if configuration.capture is CaptureKind.REDIRECT else 0


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
