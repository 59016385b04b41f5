"""What a CA in a cluster runs besides: the API server's client, the watches, and the parts that plug in here. I/O.

Belongs here: what starts and stops, in which order, and what a change of the cluster sets off. Doesn't: what the parts
do.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import structlog

from ca.authenticate.pod import PodAuthentication, check_alive
from ca.evidence.pod import Pod
from ca.kubernetes.admission.admission import run_injection
from ca.kubernetes.api.client import ClusterClient
from ca.kubernetes.api.watch import Watch
from ca.kubernetes.cluster.cluster_services import EndpointSlice, Service, ServiceIndex, trim_service, trim_slice
from ca.kubernetes.cluster.pods import Namespace, NamespaceIndex, PodIndex, PodRecord, trim_namespace, trim_pod
from ca.kubernetes.cluster.refusals import Refusals
from ca.kubernetes.cluster.vouching import Vouching
from ca.kubernetes.objects.leading import Leading, run_leading
from ca.runtime.services import Services
from ca.settings.settings import Configuration, parse_endpoint
from ca.store.records import JoinGrant
from shared.model.errors import TouchmarkError, UnavailableError
from shared.model.kubernetes.contract import CA_SERVICE, SYSTEM_NAMESPACE
from shared.model.wire.messages import DirectoryEntry, Registration
from shared.runtime.tasks import Tasks

# Changes that come together (a rollout, a list) are pushed together.
COALESCE_S: Final = 0.05
RECONCILE_S: Final = 60.0
# While the API server is away the last state holds, or an outage of it would become one of the mesh; not for ever,
# since a pod that was deleted meanwhile would go on getting certificates.
MAX_STALE_S: Final = 6 * 3600.0
POD_GONE: Final = "pod_gone"
DIRECTORY_WATCHES: Final = ("namespaces", "pods", "services", "endpointslices")

_log = structlog.get_logger("touchmark.ca")


@dataclass(slots=True, kw_only=True, eq=False)
class Cluster:
    """The cluster as the CA's other parts see it: ``services.cluster``.

    Attributes:
        client: to the API server, as the CA's own service account.
        tasks: where further parts spawn what runs as long as the cluster does.
        leading: the policy objects, and whether this replica leads.
        watches: by name; a further part adds those that it runs itself, for ``/v1/cluster`` and ``/readyz``.
    """

    client: ClusterClient
    tasks: Tasks
    pods: PodIndex
    namespaces: NamespaceIndex
    services: ServiceIndex
    authentication: PodAuthentication
    vouching: Vouching
    refusals: Refusals
    watches: dict[str, Watch[Any, Any]] = field(default_factory=dict)
    leading: Leading | None = None

    @property
    def is_synced(self) -> bool:
        """The directory is whole: what isn't known of namespaces, pods and Services isn't there."""
        return all(self.watches[name].is_synced.is_set() for name in DIRECTORY_WATCHES)

    def find_entry(self, address: str) -> DirectoryEntry | None:
        """Return what the API server says of a (normalised) address; None: nothing."""
        return self.pods.get_entry(address) or self.services.get_entry(address)

    async def authenticate(self, token: str, csr: bytes, registration: Registration) -> JoinGrant:
        """Return what a pod's sidecar is granted. Raises as ``PodAuthentication.authenticate``."""
        self.check_fresh()
        return self._vouch(await self.authentication.authenticate(token, csr, registration))

    def check_alive(self, grant: JoinGrant) -> JoinGrant:
        """Return the grant of a pod's sidecar as it is now.

        Raises:
            EnrolmentRefused: the pod is gone, or its sidecar may no longer join.
            UnavailableError: nobody knows.
        """
        self.check_fresh()
        return self._vouch(check_alive(self.pods, grant))

    def _vouch(self, grant: JoinGrant) -> JoinGrant:
        return replace(grant, labels=self.vouching.labels_of(grant.workload.namespace))

    def check_fresh(self) -> None:
        """Check that what the CA knows of pods can be relied upon.

        Raises:
            UnavailableError: the pods haven't been listed yet, or the API server has been away for too long.
        """
        watch = self.watches["pods"]
        if not watch.is_synced.is_set():
            raise UnavailableError("the CA hasn't read the cluster's pods yet", hint="it tries on: see its /readyz")
        if watch.age_s() > MAX_STALE_S:
            raise UnavailableError(
                f"the API server hasn't been heard for {watch.age_s():.0f} s", hint="see the CA's /v1/cluster"
            )


@contextlib.asynccontextmanager
async def run_cluster(services: Services, tasks: Tasks) -> AsyncIterator[Cluster]:
    """Run everything of the cluster for as long as the context lasts.

    Raises:
        InputError: there is no usable configuration to reach an API server with. An API server that doesn't answer is
            no error: the watches go on trying, and ``/readyz`` says so.
    """
    configuration = services.configuration
    async with contextlib.AsyncExitStack() as stack:
        client = await ClusterClient.open(configuration.kubeconfig)
        stack.push_async_callback(client.close)
        upkeep = ClusterUpkeep(services)
        pods = PodIndex(on_addresses=upkeep.note_addresses, on_gone=upkeep.note_gone)
        images, names = configuration.sidecar_images, list_ca_names(configuration)
        namespaces = NamespaceIndex(on_labels=lambda: vouching.note_change())
        vouching = Vouching(services.store, namespaces)
        await vouching.load()
        services.store.on_namespace_change(vouching.note_change)
        cluster = Cluster(
            client=client,
            tasks=tasks,
            pods=pods,
            namespaces=namespaces,
            services=ServiceIndex(on_addresses=upkeep.note_addresses),
            authentication=PodAuthentication(client, pods, images=images, ca_names=names),
            vouching=vouching,
            refusals=Refusals(services.metrics),
        )
        _add_watches(cluster, services, images=images, ca_names=names)
        services.cluster = cluster
        services.hub.directory.find_vouched = cluster.find_entry
        # Parts plug in here, each an async context manager ``run_…(services, cluster)`` that returns once it runs:
        # policy objects and the Lease, then the webhook and the trust ConfigMaps.
        cluster.leading = await stack.enter_async_context(run_leading(services, client))
        running = [tasks.spawn(watch.run(), name=f"watch-{watch.name}") for watch in cluster.watches.values()]
        running += [tasks.spawn(vouching.run(), name="vouch-for-labels"), *upkeep.start(cluster, tasks)]
        try:
            async with contextlib.AsyncExitStack() as parts:
                if configuration.webhook_host:
                    await parts.enter_async_context(run_injection(services, cluster))
                yield cluster
        finally:
            for task in running:
                task.cancel()
            await asyncio.wait(running, timeout=5.0)


def list_ca_names(configuration: Configuration) -> frozenset[str]:
    """Return the host names and addresses to which a sidecar of this CA may be sent."""
    service = f"{CA_SERVICE}.{SYSTEM_NAMESPACE}"
    told = parse_endpoint(configuration.sidecar_ca)[0]
    return frozenset({service, f"{service}.svc", f"{service}.svc.cluster.local", told, *configuration.names})


def _add_watches(cluster: Cluster, services: Services, *, images: tuple[str, ...], ca_names: frozenset[str]) -> None:
    client, metrics = cluster.client, services.metrics
    pods: Watch[Any, Any] = Watch(
        client,
        cluster.pods,
        name="pods",
        path="/api/v1/pods",
        kind=Pod,
        trim=partial(trim_pod, images=images, ca_names=ca_names),
        metrics=metrics,
        # One that has ended leaves the selection, which the watch shows as a deletion.
        query={"fieldSelector": "status.phase!=Succeeded,status.phase!=Failed"},
    )
    namespaces: Watch[Any, Any] = Watch(
        client,
        cluster.namespaces,
        name="namespaces",
        path="/api/v1/namespaces",
        kind=Namespace,
        trim=trim_namespace,
        metrics=metrics,
    )
    of_services: Watch[Any, Any] = Watch(
        client,
        cluster.services.services,
        name="services",
        path="/api/v1/services",
        kind=Service,
        trim=trim_service,
        metrics=metrics,
    )
    slices: Watch[Any, Any] = Watch(
        client,
        cluster.services.slices,
        name="endpointslices",
        path="/apis/discovery.k8s.io/v1/endpointslices",
        kind=EndpointSlice,
        trim=trim_slice,
        metrics=metrics,
    )
    for watch in (namespaces, pods, of_services, slices):
        cluster.watches[watch.name] = watch


class ClusterUpkeep:
    """What a change of the cluster sets off: pushes to sidecars, the end of a dead pod's stream and of its record."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._addresses: dict[str, None] = {}
        self._has_addresses = asyncio.Event()
        self._gone: dict[str, None] = {}
        self._has_gone = asyncio.Event()

    def start(self, cluster: Cluster, tasks: Tasks) -> list[asyncio.Task[None]]:
        """Begin, and return what runs."""
        for name, watch in cluster.watches.items():
            self._services.metrics.watched.labels(watch=name).set_function(partial(_count, watch))
        return [
            tasks.spawn(self._publish_addresses(), name="publish-addresses"),
            tasks.spawn(self._forget_gone(), name="forget-pods"),
            tasks.spawn(self._reconcile(cluster), name="reconcile-pods"),
        ]

    def note_addresses(self, addresses: Iterable[str]) -> None:
        """Push these addresses' entries to those who watch them, soon and each once."""
        self._addresses.update(dict.fromkeys(addresses))
        self._has_addresses.set()

    def note_gone(self, pod: PodRecord) -> None:
        """End the pod's stream at once, and forget its sidecar: nobody waits for what it would acknowledge."""
        session = self._services.hub.get(pod.instance) if pod.has_sidecar else None
        if session is not None and session.pod_uid == pod.uid:
            session.end(POD_GONE)
        if pod.has_sidecar:
            self._gone[pod.uid] = None
            self._has_gone.set()

    async def _publish_addresses(self) -> None:
        while True:
            await self._has_addresses.wait()
            self._has_addresses.clear()
            changed = list(self._addresses)
            self._addresses.clear()
            self._services.hub.publish_addresses(changed)
            await asyncio.sleep(COALESCE_S)  # The first change goes at once; what follows it closely, together.

    async def _forget_gone(self) -> None:
        while True:
            await self._has_gone.wait()
            await asyncio.sleep(COALESCE_S)
            self._has_gone.clear()
            while gone := list(self._gone)[:500]:
                await self._delete(gone)
                for uid in gone:
                    self._gone.pop(uid, None)

    async def _delete(self, uids: list[str]) -> None:
        try:
            if await self._services.store.delete_pod_sidecars(uids):
                self._services.rotation.poke()  # It may have waited for one of them alone.
        except TouchmarkError as error:  # The next reconciliation finds them again.
            _log.warning("pods_not_forgotten", pods=len(uids), code=error.code, message=error.message)

    async def _reconcile(self, cluster: Cluster) -> None:
        """Forget sidecars whose pods went while nobody looked: while this CA, or the API server, was down."""
        await cluster.watches["pods"].is_synced.wait()
        while True:
            try:
                # Those that joined a moment ago may be ahead of the watch of this replica.
                joined = await self._services.store.list_pod_sidecars(
                    joined_before=self._services.clock() - RECONCILE_S
                )
                gone = [uid for uid in joined.values() if cluster.pods.get(uid) is None]
                is_fresh = cluster.watches["pods"].age_s() < RECONCILE_S * 3
                for begin in range(0, len(gone) if is_fresh else 0, 500):
                    await self._delete(gone[begin : begin + 500])
            except TouchmarkError as error:
                _log.warning("pods_not_reconciled", code=error.code, message=error.message)
            await asyncio.sleep(RECONCILE_S)


def _count(watch: Watch[Any, Any]) -> float:
    return float(watch.describe().objects)
