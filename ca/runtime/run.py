"""The CA composed: open → serve → look after things → close. I/O.

Belongs here: what is made, what starts, in which order, and how it ends. Each part gets in its constructor what it
uses. Doesn't: what any of it does.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog
from aiohttp import web

from ca.api.admin.application import make_admin_application
from ca.api.admin.authorities import About, AuthoritiesAdmin
from ca.api.admin.cluster import ClusterAdmin
from ca.api.admin.foreign import ForeignAdmin
from ca.api.admin.namespaces import NamespacesAdmin
from ca.api.admin.observation import ObservationAdmin
from ca.api.admin.sidecars import SidecarsAdmin
from ca.api.health import HealthEndpoint
from ca.api.stream.certificate_requests import CertificateRequests
from ca.api.stream.endpoint import StreamEndpoint
from ca.api.stream.joining import Joining
from ca.api.stream.messages import SidecarMessages
from ca.authenticate.sidecar_certificate import CertificateAuthentication
from ca.authority.authorities import Authorities
from ca.authority.kek import ENVIRONMENT_VARIABLE, KeyEncryptionKey, load_key_encryption_key
from ca.authority.published_roots import NotPublished
from ca.authority.server_certificate import ServerCertificate
from ca.distribution.directory import Directory
from ca.distribution.foreign_trust import ForeignTrust
from ca.distribution.hub import Hub
from ca.distribution.live_connections import Survey
from ca.distribution.replica_sync import ReplicaSync
from ca.issuance import Issuance
from ca.kubernetes.view import ClusterView, NoCluster
from ca.listening import SHUTDOWN_S, bind, serve_tls
from ca.metrics import Metrics
from ca.observation.decisions import Decisions
from ca.rotation.gates import ActivationGate, Pace, RetirementGate
from ca.rotation.rotation import Rotation
from ca.runtime.admin_socket import bind_admin_socket
from ca.runtime.data_directory import lock_data_directory
from ca.runtime.upkeep import Publishing, Upkeep
from ca.settings.settings import Configuration, format_endpoint
from ca.store.store import Store
from shared.model.errors import TouchmarkError
from shared.model.kubernetes.contract import SYSTEM_NAMESPACE
from shared.model.wire.messages import STREAM_PATH
from shared.runtime.tasks import Tasks

if TYPE_CHECKING:  # Its client library takes 20 MiB, and is loaded in clusters only.
    from ca.runtime.cluster import Cluster

# By then every replica has noticed what another has changed (``ca/distribution/replica_sync.py`` looks once a second),
# and a sidecar's handshakes are over that began before it installed the bundle.
SETTLING_S: Final = 5.0

_log = structlog.get_logger("touchmark.ca")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningCA:
    """What runs, for the caller of ``run_ca``. No part of the CA is given it.

    Attributes:
        listen: ``host:port`` on which it really listens.
        admin_listen: ``host:port`` of the admin API's loopback address; empty: there is none.
        clock: seconds since the epoch.
    """

    configuration: Configuration
    listen: str
    admin_listen: str
    clock: Callable[[], float]
    started: float
    metrics: Metrics
    kek: KeyEncryptionKey
    store: Store
    authorities: Authorities
    server_certificate: ServerCertificate
    issuance: Issuance
    rotation: Rotation
    hub: Hub
    foreign: ForeignTrust
    decisions: Decisions
    cluster: ClusterView


@contextlib.asynccontextmanager
async def run_ca(configuration: Configuration, *, clock: Callable[[], float] = time.time) -> AsyncIterator[RunningCA]:
    """Run the CA for as long as the context lasts.

    Arguments:
        clock: seconds since the epoch.

    Raises:
        InputError, UnavailableError, ConflictError: a directory, port or socket can't be used; each says which.
    """
    async with contextlib.AsyncExitStack() as stack:
        if not configuration.database:
            stack.enter_context(lock_data_directory(configuration.data_dir))
        # The sockets first: a port in use must not leave a new store behind.
        listener = stack.enter_context(contextlib.closing(bind(configuration.host, configuration.port)))
        admin_listener = None
        if configuration.admin_host:
            admin_listener = stack.enter_context(
                contextlib.closing(bind(configuration.admin_host, configuration.admin_port))
            )
        kek = await _load_key(configuration)
        store = await _open_store(stack, configuration)
        metrics = Metrics()
        authorities = await Authorities.open(store, kek, now=clock())
        cluster = None
        if configuration.kubernetes:
            from ca.runtime.cluster import open_cluster

            cluster = await stack.enter_async_context(
                open_cluster(configuration, store=store, authorities=authorities, metrics=metrics, clock=clock)
            )
        ca = await _compose(
            configuration,
            kek,
            store,
            authorities,
            cluster,
            listen=format_endpoint(configuration.host, listener.getsockname()[1]),
            admin_listen=format_endpoint(configuration.admin_host, admin_listener.getsockname()[1])
            if admin_listener is not None
            else "",
            metrics=metrics,
            clock=clock,
        )
        tasks = Tasks(_note_failure)
        stack.push_async_callback(tasks.close, timeout_s=SHUTDOWN_S)
        await _start(stack, ca, cluster, tasks)
        health = HealthEndpoint(
            store=store,
            authorities=authorities,
            cluster=ca.cluster,
            metrics=metrics,
            clock=clock,
        )
        survey = Survey(ca.hub)
        await _serve_sidecars(stack, ca, survey, health, listener)
        await _serve_admin(stack, ca, survey, health, admin_listener)
        stack.callback(ca.hub.end_all, "shutdown")
        yield ca


async def _open_store(stack: contextlib.AsyncExitStack, configuration: Configuration) -> Store:
    store = await Store.open(
        configuration.database or configuration.data_dir,
        trust_domain=configuration.trust_domain,
        replica=_name_replica() if configuration.database else "",
    )
    stack.push_async_callback(store.close)
    if configuration.database:
        stack.push_async_callback(_leave, store)
    await store.disconnect_all()
    return store


async def _compose(
    configuration: Configuration,
    kek: KeyEncryptionKey,
    store: Store,
    authorities: Authorities,
    cluster: Cluster | None,
    *,
    listen: str,
    admin_listen: str,
    metrics: Metrics,
    clock: Callable[[], float],
) -> RunningCA:
    """Make the parts. Nothing runs yet."""
    now = clock()
    view: ClusterView = cluster if cluster is not None else NoCluster()
    published = cluster.published if cluster is not None else NotPublished()
    server_certificate = ServerCertificate(
        authorities,
        trust_domain=configuration.trust_domain,
        host=configuration.host,
        names=configuration.server_names,
        published=published,
    )
    server_certificate.renew(now=now)
    hub = Hub(directory=Directory(find_vouched=view.find_entry), metrics=metrics)
    hub.directory.refresh(await store.list_live_sidecars(now=now))
    pace = Pace(
        minimum_s=configuration.rotation_minimum_wait_s,
        settling_s=SETTLING_S,
        delivery_s=configuration.trust_delay_s if configuration.kubernetes else 0.0,
    )
    activation = ActivationGate(store, published=published, pace=pace)
    return RunningCA(
        configuration=configuration,
        listen=listen,
        admin_listen=admin_listen,
        clock=clock,
        started=now,
        metrics=metrics,
        kek=kek,
        store=store,
        authorities=authorities,
        server_certificate=server_certificate,
        issuance=Issuance(store, authorities, leaf_lifetime_s=configuration.leaf_lifetime_s),
        rotation=Rotation(
            store,
            authorities,
            activation=activation,
            retirement=RetirementGate(store, activation=activation),
            is_leader=lambda: view.is_leader,
            clock=clock,
        ),
        hub=hub,
        foreign=await ForeignTrust.open(store, on_change=hub.publish_foreign_trust),
        decisions=Decisions(
            store,
            metrics=metrics,
            max_age_s=configuration.decisions_max_age_s,
            max_rows=configuration.decisions_max_rows,
        ),
        cluster=view,
    )


async def _start(stack: contextlib.AsyncExitStack, ca: RunningCA, cluster: Cluster | None, tasks: Tasks) -> None:
    """Start what the CA does by itself."""
    publishing = Publishing(
        store=ca.store,
        authorities=ca.authorities,
        server_certificate=ca.server_certificate,
        hub=ca.hub,
        clock=ca.clock,
    )
    publishing.start(tasks)
    upkeep = Upkeep(
        store=ca.store,
        authorities=ca.authorities,
        server_certificate=ca.server_certificate,
        hub=ca.hub,
        decisions=ca.decisions,
        is_leader=lambda: ca.cluster.is_leader,
        metrics=ca.metrics,
        clock=ca.clock,
    )
    upkeep.start(tasks)
    tasks.spawn(ca.rotation.run(), name="rotation")
    if ca.configuration.database:
        sync = ReplicaSync(
            store=ca.store,
            authorities=ca.authorities,
            hub=ca.hub,
            foreign=ca.foreign,
            on_decisions=ca.decisions.note_arrival,
            metrics=ca.metrics,
            clock=ca.clock,
        )
        await sync.start()
        tasks.spawn(sync.run(), name="following")
    if cluster is not None:
        context = ca.server_certificate.context
        await stack.enter_async_context(cluster.run(hub=ca.hub, rotation=ca.rotation, context=context, tasks=tasks))


async def _serve_sidecars(
    stack: contextlib.AsyncExitStack, ca: RunningCA, survey: Survey, health: HealthEndpoint, listener: socket.socket
) -> None:
    joining = Joining(
        store=ca.store,
        authorities=ca.authorities,
        certificates=CertificateAuthentication(store=ca.store, authorities=ca.authorities),
        issuance=ca.issuance,
        rotation=ca.rotation,
        hub=ca.hub,
        foreign=ca.foreign,
        cluster=ca.cluster,
        metrics=ca.metrics,
        clock=ca.clock,
    )
    messages = SidecarMessages(
        store=ca.store,
        authorities=ca.authorities,
        rotation=ca.rotation,
        hub=ca.hub,
        survey=survey,
        decisions=ca.decisions,
        metrics=ca.metrics,
    )
    requests = CertificateRequests(
        store=ca.store, issuance=ca.issuance, cluster=ca.cluster, metrics=ca.metrics, clock=ca.clock
    )
    stream = StreamEndpoint(
        joining=joining,
        messages=messages,
        requests=requests,
        hub=ca.hub,
        cluster=ca.cluster,
        max_streams=ca.configuration.max_streams,
        metrics=ca.metrics,
    )
    application = web.Application(client_max_size=65_536)
    application.router.add_get(STREAM_PATH, stream.serve)
    application.add_routes(health.routes())
    await serve_tls(stack, application, listener, ca.server_certificate.context)


async def _serve_admin(
    stack: contextlib.AsyncExitStack,
    ca: RunningCA,
    survey: Survey,
    health: HealthEndpoint,
    admin_listener: socket.socket | None,
) -> None:
    listener = stack.enter_context(bind_admin_socket(ca.configuration.admin_socket))
    store, clock = ca.store, ca.clock
    about = About(
        configuration=ca.configuration,
        listen=ca.listen,
        started=ca.started,
        is_kek_generated=ca.kek.generated_at is not None,
    )
    application = make_admin_application(
        AuthoritiesAdmin(
            about=about,
            store=store,
            authorities=ca.authorities,
            rotation=ca.rotation,
            server_certificate=ca.server_certificate,
            clock=clock,
        ),
        SidecarsAdmin(store=store, clock=clock, listen=ca.listen),
        NamespacesAdmin(store=store, clock=clock, are_policies_objects=ca.configuration.kubernetes),
        ObservationAdmin(store=store, decisions=ca.decisions, hub=ca.hub, survey=survey, clock=clock),
        ClusterAdmin(store=store, cluster=ca.cluster),
        ForeignAdmin(store=store, authorities=ca.authorities, foreign=ca.foreign, clock=clock),
        health,
        metrics=ca.metrics,
    )
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0, handler_cancellation=True)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.SockSite(runner, listener).start()
    if admin_listener is not None:
        await web.SockSite(runner, admin_listener).start()


async def _load_key(configuration: Configuration) -> KeyEncryptionKey:
    if not configuration.kek_secret or os.environ.get(ENVIRONMENT_VARIABLE):
        return load_key_encryption_key(configuration.kek_file, configuration.data_dir)
    from ca.kubernetes.api.client import ClusterClient
    from ca.kubernetes.api.kek_secret import load_key_secret

    client = await ClusterClient.open(configuration.kubeconfig)
    try:
        return await load_key_secret(client, namespace=SYSTEM_NAMESPACE, name=configuration.kek_secret, now=time.time())
    finally:
        await client.close()


def _name_replica() -> str:
    """Return a name for this process unlike any other's: a pod's name is that of its earlier process, too."""
    return f"{socket.gethostname()[:63]}_{secrets.token_hex(8)}"


async def _leave(store: Store) -> None:
    try:
        await store.leave()
    except TouchmarkError as error:  # The others notice its silence.
        _log.warning("replica_not_left", message=error.message)


def _note_failure(name: str, error: BaseException) -> None:
    _log.error("task_failed", task=name, error=repr(error))
