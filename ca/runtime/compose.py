"""The CA's parts made from its configuration, each with what it uses. I/O: the store is read.

Belongs here: which part gets what. Doesn't: what starts and ends (``run.py``), what is served (``serve.py``), or the
parts of a cluster (``cluster.py``).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ca.authority.authorities import Authorities
from ca.authority.kek import KeyEncryptionKey
from ca.authority.published_roots import NotPublished, PublishedRoots
from ca.authority.server_certificate import ServerCertificate
from ca.distribution.database_clock import DatabaseClock
from ca.distribution.directory import Directory
from ca.distribution.foreign_trust import ForeignTrust
from ca.distribution.hub import Hub
from ca.forwarding.forwarder import Forwarder
from ca.forwarding.spans import SpanForwarder
from ca.forwarding.targets import make_forwarders, make_span_forwarder
from ca.issuance import Issuance
from ca.kubernetes.view import ClusterView, NoCluster
from ca.metrics import Metrics
from ca.observation.decisions import Decisions, Retention
from ca.observation.edge_counts import EdgeCounts
from ca.observation.programs_seen import ProgramsSeen
from ca.rotation.gates import ActivationGate, Pace, RetirementGate
from ca.rotation.rotation import Rotation
from ca.runtime.data_directory import HeldDirectory
from ca.runtime.listeners import Listeners
from ca.settings.configuration import Configuration, SigningProcessMode
from ca.signing.process import SigningProcess
from ca.signing.processors import count_processors
from ca.store.store import Store
from ca.tracing import Tracer
from shared.model.policy.decision import DecisionRecord

if TYPE_CHECKING:  # Its client library takes 20 MiB, and is loaded in clusters only.
    from ca.runtime.cluster import Cluster

# By then every replica has noticed what another has changed (``ca/distribution/replica_sync.py`` looks once a second),
# and a sidecar's handshakes are over that began before it installed the bundle.
SETTLING_S: Final = 5.0
# The event loop's, and one for signing.
_PROCESSORS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningCA:
    """The CA's parts by name, for ``ca/runtime`` and the caller of ``run_ca``. No part is given it.

    Attributes:
        listen: ``host:port`` at which sidecars find it, with the real port.
        admin_listen: ``host:port`` of the admin API's loopback address; empty: there is none.
        clock: seconds since the epoch.
        database_clock: how far it is from that of the database which several replicas share.
        started: likewise.
        directory: the data directory that it holds; None with a database.
    """

    configuration: Configuration
    listen: str
    admin_listen: str
    clock: Callable[[], float]
    database_clock: DatabaseClock
    started: float
    directory: HeldDirectory | None
    metrics: Metrics
    kek: KeyEncryptionKey
    store: Store
    authorities: Authorities
    server_certificate: ServerCertificate
    issuance: Issuance
    signing: SigningProcess | None
    rotation: Rotation
    hub: Hub
    foreign: ForeignTrust
    decisions: Decisions
    programs: ProgramsSeen
    forwarders: tuple[Forwarder, ...]
    spans: SpanForwarder | None
    tracer: Tracer
    cluster: ClusterView


async def compose(
    configuration: Configuration,
    *,
    listeners: Listeners,
    directory: HeldDirectory | None,
    kek: KeyEncryptionKey,
    store: Store,
    authorities: Authorities,
    cluster: Cluster | None,
    metrics: Metrics,
    clock: Callable[[], float],
    database_clock: DatabaseClock,
) -> RunningCA:
    """Make the parts. Nothing runs yet.

    Arguments:
        clock: seconds since the epoch.

    Raises:
        InputError: a name can't stand in the server's certificate.
        UnavailableError: the store fails.
    """
    now = clock()
    view: ClusterView = cluster if cluster is not None else NoCluster()
    published = cluster.published if cluster is not None else NotPublished()
    rotation = _make_rotation(
        configuration,
        store,
        authorities,
        is_leader=lambda: view.is_leader and database_clock.is_near,
        published=published,
        clock=clock,
    )
    await rotation.replace_ended(now)  # Else nothing could sign the server's own certificate.
    server_certificate = ServerCertificate(
        authorities,
        trust_domain=configuration.trust_domain,
        host=configuration.host,
        names=configuration.server_names,
        published=published,
    )
    server_certificate.renew(now=now)
    hub = Hub(directory=Directory(find_vouched=view.find_entry), metrics=metrics)
    begun = hub.directory.begin_refresh()
    hub.directory.refresh(await store.sidecars.list_live(now=now, with_evicted=True), begun=begun)
    counts = EdgeCounts(metrics) if configuration.edge_metrics else None
    forwarders = make_forwarders(configuration, metrics=metrics, instance=socket.gethostname())
    spans = make_span_forwarder(configuration, metrics=metrics, instance=socket.gethostname())
    signing = _make_signing_process(configuration, authorities, metrics)
    return RunningCA(
        configuration=configuration,
        listen=listeners.listen,
        admin_listen=listeners.admin_listen,
        clock=clock,
        database_clock=database_clock,
        started=now,
        directory=directory,
        metrics=metrics,
        kek=kek,
        store=store,
        authorities=authorities,
        server_certificate=server_certificate,
        issuance=Issuance(
            store,
            authorities,
            leaf_lifetime_s=configuration.leaf_lifetime_s,
            check_clock=database_clock.require_near,
            signer=signing,
        ),
        signing=signing,
        rotation=rotation,
        hub=hub,
        foreign=await ForeignTrust.open(store, on_change=hub.publish_foreign_trust),
        decisions=Decisions(
            store,
            metrics=metrics,
            limits=Retention(
                max_age_s=configuration.decisions_max_age_s,
                max_rows=configuration.decisions_max_rows,
                max_bytes=configuration.decisions_max_bytes,
            ),
            on_stored=lambda records: _tell(view, forwarders, counts, records),
        ),
        programs=ProgramsSeen(store, clock=clock),
        forwarders=forwarders,
        spans=spans,
        tracer=Tracer(None if spans is None else spans.offer, every=configuration.trace_every),
        cluster=view,
    )


def _tell(
    view: ClusterView, forwarders: Sequence[Forwarder], counts: EdgeCounts | None, records: Sequence[DecisionRecord]
) -> None:
    if counts is not None:
        counts.count(records)
    view.tell_refusals(records)
    for each in forwarders:
        each.offer(records)


def _make_signing_process(
    configuration: Configuration, authorities: Authorities, metrics: Metrics
) -> SigningProcess | None:
    """Return what signs beside this process, if anything does: on one processor it would only take turns with it."""
    mode = configuration.signing_process
    if mode is SigningProcessMode.OFF or (mode is SigningProcessMode.AUTO and count_processors() < _PROCESSORS):
        return None
    signing = SigningProcess(
        lambda: authorities.active,
        is_always=mode is SigningProcessMode.ON,
        note_lost=metrics.failures.labels(where="signing").inc,
    )
    authorities.on_change(signing.note_authorities)
    return signing


def _make_rotation(
    configuration: Configuration,
    store: Store,
    authorities: Authorities,
    *,
    is_leader: Callable[[], bool],
    published: PublishedRoots,
    clock: Callable[[], float],
) -> Rotation:
    pace = Pace(
        minimum_s=configuration.rotation_minimum_wait_s,
        settling_s=SETTLING_S,
        delivery_s=configuration.trust_delay_s if configuration.kubernetes else 0.0,
    )
    activation = ActivationGate(store, published=published, pace=pace)
    return Rotation(
        store,
        authorities,
        activation=activation,
        retirement=RetirementGate(store, activation=activation),
        is_leader=is_leader,
        clock=clock,
    )
