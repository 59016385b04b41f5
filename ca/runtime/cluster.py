"""The cluster composed: the API server's client, the watches, the indexes, and the parts that use them. I/O.

Belongs here: what is made, what starts and stops, and in which order. Doesn't: what the parts do, or what a change of
the cluster sets off (``cluster_upkeep.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import structlog

from ca.admission.policy_review import JudgePolicy
from ca.authenticate.pod import PodAuthentication, Subject, check_alive, check_image
from ca.authority.authorities import Authorities
from ca.authority.published_roots import NotPublished, PublishedRoots
from ca.distribution.database_clock import DatabaseClock
from ca.distribution.hub import Hub
from ca.evidence.former_images import FormerImages, note_images
from ca.kubernetes.api.client import ClusterClient
from ca.kubernetes.api.user_reviews import UserReviews
from ca.kubernetes.api.watch import Watch
from ca.kubernetes.cluster.changes import ClusterChanges
from ca.kubernetes.cluster.cluster_services import ServiceIndex
from ca.kubernetes.cluster.description import count_former, count_pods, warn_of_former
from ca.kubernetes.cluster.pod_events import PodEvents
from ca.kubernetes.cluster.pods import NamespaceIndex, PodIndex, trim_pod
from ca.kubernetes.cluster.refusals import Refusals
from ca.kubernetes.cluster.vouching import Vouching
from ca.kubernetes.cluster.watches import DIRECTORY_WATCHES, make_directory_watches
from ca.kubernetes.objects.leading import Leading, run_leading
from ca.kubernetes.webhook_objects.admission import Admission, make_admission, run_admission
from ca.kubernetes.webhook_objects.mode_notes import Modes
from ca.metrics import Metrics
from ca.observation.explicit_guard import judge_policy
from ca.rotation.rotation import Rotation
from ca.runtime.cluster_upkeep import ClusterUpkeep
from ca.settings.configuration import Configuration, parse_endpoint
from ca.store.records import JoinGrant
from ca.store.store import Store
from shared.model.errors import TouchmarkError, UnavailableError
from shared.model.injection.containers import InjectionOptions
from shared.model.kubernetes.contract import CA_SERVICE
from shared.model.policy.decision import DecisionRecord
from shared.model.policy.documents import MeshPolicyDocument
from shared.model.wire.admin import ClusterStatus
from shared.model.wire.messages import DirectoryEntry, Registration
from shared.runtime.tasks import Tasks

# While the API server is away the last state holds, or an outage of it would become one of the mesh; not for ever,
# since a pod that was deleted in that time would still get certificates.
MAX_STALE_S: Final = 6 * 3600.0
VERSION_DEADLINE_S: Final = 3.0

_log = structlog.get_logger("touchmark.ca")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cluster:
    """The cluster: ``ClusterView`` with what is behind it.

    Attributes:
        client: to the API server, as the CA's own service account.
        changes: what the indexes have noted and hasn't been dealt with yet.
        leading: the policy objects, and whether this replica leads.
        admission: the webhook and what it needs; None without ``--webhook-listen``.
        watches: by name, without those of the policy objects.
        users: who may do what, by the API server.
        events: what people are told on pods.
        former: sidecar images that were taken out of the configuration's, whose pods stay for a grace.
    """

    configuration: Configuration
    client: ClusterClient
    store: Store
    clock: Callable[[], float]
    pods: PodIndex
    namespaces: NamespaceIndex
    services: ServiceIndex
    changes: ClusterChanges
    authentication: PodAuthentication
    vouching: Vouching
    refusals: Refusals
    leading: Leading
    admission: Admission | None
    watches: Mapping[str, Watch[Any, Any]]
    users: UserReviews
    events: PodEvents
    former: FormerImages

    @property
    def published(self) -> PublishedRoots:
        """Where the cluster names the CA's roots."""
        return self.admission.roots if self.admission is not None else NotPublished()

    @property
    def is_leader(self) -> bool:
        """Whether this replica holds the Lease."""
        return self.leading.leadership.is_leader

    @property
    def is_synced(self) -> bool:
        """The directory is whole: what isn't known of namespaces, pods and Services isn't there."""
        return all(self.watches[name].is_synced.is_set() for name in DIRECTORY_WATCHES)

    def check_ready(self) -> Mapping[str, str]:
        """Return the cluster's part of ``/readyz``."""
        missing = [name for name, watch in self.watches.items() if not watch.is_synced.is_set()]
        # An API server that goes away later doesn't count: the sidecars need this CA all the more then.
        return {"kubernetes": f"not read yet: {', '.join(missing)}" if missing else "ok"}

    def find_entry(self, address: str) -> DirectoryEntry | None:
        """Return what the API server says of a (normalised) address; None: nothing."""
        return self.pods.get_entry(address) or self.services.get_entry(address)

    def find_image(self, pod_uid: str, container: str) -> str:
        """Return the image of a pod's container, by the container's ID; empty: not known."""
        pod = self.pods.get(pod_uid)
        return pod.find_image(container) if pod is not None else ""

    async def authenticate(self, token: str, csr: bytes, registration: Registration) -> JoinGrant:
        """Return what a pod's sidecar is granted. Raises as ``PodAuthentication.authenticate``."""
        self._check_fresh()
        return self._vouch(await self.authentication.authenticate(token, csr, registration))

    def check_alive(self, grant: JoinGrant) -> JoinGrant:
        """Return a grant as it is now; a pod's only while the pod is alive.

        Raises:
            EnrolmentRefused: the pod is gone, or its sidecar may no longer join.
            UnavailableError: whether it is alive isn't known.
        """
        if not grant.pod_uid:
            return grant
        self._check_fresh()
        alive = check_alive(self.pods, grant)
        if (known := self.pods.get(grant.pod_uid)) is not None and known.former_image:
            subject = Subject(namespace=known.namespace, pod=known.name, uid=known.uid)
            check_image(known, self.former, now=self.clock(), subject=subject)
        return self._vouch(alive)

    def note_refusal(self, error: TouchmarkError, *, claimed: str, now: float) -> None:
        """Remember that a pod's sidecar was refused."""
        self.refusals.note(error, claimed=claimed, now=now)

    def tell_refusals(self, records: Sequence[DecisionRecord]) -> None:
        """Tell people of refused connections, by Events on their pods."""
        self.events.tell_refusals(records)

    def tell_pod(self, instance: str, reason: str, note: str) -> None:
        """Tell people something about a sidecar, by an Event on its pod."""
        self.events.tell(instance, reason, note)

    async def describe(self, connected: Collection[str]) -> ClusterStatus:
        """Return what is watched, how pods stand, and who was refused."""
        try:
            version = (await self.client.version(deadline_s=VERSION_DEADLINE_S)).git_version
        except TouchmarkError:
            version = ""  # The watches say what is wrong.
        census = count_pods(self.pods, self.namespaces, connected=connected)
        watches = sorted([*self.watches.values(), *self.leading.watches], key=lambda watch: watch.name)
        return ClusterStatus(
            server_version=version,
            clock_skew_s=self.client.clock_skew_s,
            sidecar_images=self.configuration.sidecar_images,
            watches=tuple(watch.describe() for watch in watches),
            leader=self.leading.leadership.holder,
            is_leader=self.is_leader,
            namespaces=census.namespaces,
            services=len(self.services),
            not_injected=census.not_injected,
            unfit=census.unfit,
            passed_over=census.passed_over,
            former_images=count_former(self.pods, self.former),
            refused=self.refusals.list_newest(),
            refused_total=self.refusals.total,
        )

    def _vouch(self, grant: JoinGrant) -> JoinGrant:
        return replace(grant, labels=self.vouching.labels_of(grant.workload.namespace))

    def _check_fresh(self) -> None:
        """Check that what the CA knows of pods can be relied upon.

        Raises:
            UnavailableError: the pods haven't been listed yet, or the API server has been away for too long.
        """
        watch = self.watches["pods"]
        if not watch.is_synced.is_set():
            raise UnavailableError(
                "the CA hasn't read the cluster's pods yet", hint="it keeps retrying: see its /readyz"
            )
        if watch.age_s() > MAX_STALE_S:
            raise UnavailableError(
                f"the API server hasn't been heard for {watch.age_s():.0f} s", hint="see the CA's /v1/cluster"
            )

    @contextlib.asynccontextmanager
    async def run(self, *, hub: Hub, rotation: Rotation, context: ssl.SSLContext, tasks: Tasks) -> AsyncIterator[None]:
        """Run everything of the cluster for as long as the context lasts.

        An API server that doesn't answer is no error: the watches keep retrying, and ``/readyz`` says so.

        Arguments:
            context: of the webhook's TLS server.

        Raises:
            InputError, UnavailableError: the webhook's port can't be used.
        """
        upkeep = ClusterUpkeep(
            self.changes,
            self.pods,
            self.watches["pods"],
            store=self.store,
            hub=hub,
            rotation=rotation,
            clock=self.clock,
            former=self.former,
        )
        async with run_leading(self.leading):
            watches = [self.watches[name] for name in DIRECTORY_WATCHES]
            running = [tasks.spawn(watch.run(), name=f"watch-{watch.name}") for watch in watches]
            running.append(tasks.spawn(self.events.run(), name="pod-events"))
            running += [tasks.spawn(self.vouching.run(), name="vouch-for-labels"), *upkeep.start(tasks)]
            try:
                async with contextlib.AsyncExitStack() as parts:
                    if self.admission is not None:
                        host, port = self.configuration.webhook_host, self.configuration.webhook_port
                        await parts.enter_async_context(
                            run_admission(self.admission, tasks, host=host, port=port, context=context)
                        )
                    yield
            finally:
                for task in running:
                    task.cancel()
                await asyncio.wait(running, timeout=5.0)


@contextlib.asynccontextmanager
async def open_cluster(
    configuration: Configuration,
    *,
    store: Store,
    authorities: Authorities,
    database_clock: DatabaseClock,
    metrics: Metrics,
    clock: Callable[[], float],
) -> AsyncIterator[Cluster]:
    """Make the cluster's parts, with a client that is open for as long as the context lasts. Nothing runs yet.

    Raises:
        InputError: there is no usable configuration to reach an API server with.
        UnavailableError: the store fails.
    """
    client = await ClusterClient.open(configuration.kubeconfig)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(client.close)
        changes, has_new_labels = ClusterChanges(), asyncio.Event()
        pods = PodIndex(on_addresses=changes.note_addresses, on_gone=changes.note_gone)
        namespaces = NamespaceIndex(on_labels=has_new_labels.set)
        services = ServiceIndex(on_addresses=changes.note_addresses)
        vouching = Vouching(store, namespaces, is_stale=has_new_labels)
        await vouching.load()
        store.namespaces.on_change(vouching.note_policy)
        leading = Leading(
            client,
            namespace=configuration.namespace,
            store=store,
            metrics=metrics,
            clock=clock,
            may_lead=lambda: database_clock.may_lead,
        )
        names, images = list_ca_names(configuration), configuration.sidecar_images
        former = await find_former_images(configuration, store, now=clock())
        watches = make_directory_watches(
            client,
            pods,
            namespaces,
            services,
            trim_pod=partial(trim_pod, images=images, ca_names=names, former=former),
            metrics=metrics,
        )
        for watch in watches.values():
            metrics.watched.labels(watch=watch.name).set_function(partial(_count, watch))
        admission = None
        if configuration.webhook_host:
            needing = partial(list_needing, pods, watches["pods"])

            def judge(document: MeshPolicyDocument) -> Awaitable[object]:
                return judge_policy(store, document, now=clock())

            admission = _make_admission(
                configuration,
                client,
                authorities,
                leading,
                needing,
                partial(warn_of_former, pods, former),
                metrics,
                judge_policy=judge,
                list_modes=store.namespaces.list_versions,
            )
            watches |= {watch.name: watch for watch in admission.watches}
        yield Cluster(
            configuration=configuration,
            client=client,
            store=store,
            clock=clock,
            pods=pods,
            namespaces=namespaces,
            services=services,
            changes=changes,
            authentication=PodAuthentication(client, pods, images=images, ca_names=names, former=former, clock=clock),
            vouching=vouching,
            refusals=Refusals(metrics),
            leading=leading,
            admission=admission,
            watches=watches,
            users=UserReviews(client),
            events=PodEvents(client, find_pod=pods.find_instance, metrics=metrics, clock=clock),
            former=former,
        )


async def find_former_images(configuration: Configuration, store: Store, *, now: float) -> FormerImages:
    """Remember the list of sidecar images, and return those that it had before.

    Raises:
        UnavailableError: the store fails.
    """
    grace_s = configuration.image_grace_s
    known = await store.change_images(
        lambda known: note_images(known, configuration.sidecar_images, now=now, grace_s=grace_s)
    )
    removed = {image: since for image, since in known.items() if since}
    for image, since in removed.items():
        _log.warning("sidecar_image_removed", image=image, removed=since, until=since + grace_s)
    return FormerImages(removed=removed, grace_s=grace_s)


def list_needing(pods: PodIndex, watch: Watch[Any, Any]) -> set[str] | None:
    """Return the namespaces with injected pods; None while that isn't known."""
    if not watch.is_synced.is_set():
        return None
    return {pod.namespace for pod in pods if pod.has_sidecar and not pod.is_ended}


def _make_admission(
    configuration: Configuration,
    client: ClusterClient,
    authorities: Authorities,
    leading: Leading,
    needing: Callable[[], set[str] | None],
    list_warnings: Callable[[], tuple[str, ...]],
    metrics: Metrics,
    *,
    judge_policy: JudgePolicy,
    list_modes: Callable[[], Awaitable[Modes]],
) -> Admission:
    admission = make_admission(
        client,
        options=InjectionOptions(
            draw_path_secret=lambda: secrets.token_hex(16),
            sidecar_image=configuration.sidecar_images[0],
            pull_policy=configuration.sidecar_pull_policy,
            ca_address=configuration.sidecar_ca,
            trust_domain=configuration.trust_domain,
            own_namespace=configuration.namespace,
        ),
        read_bundle=authorities.bundle,
        list_needing=needing,
        judge_policy=judge_policy,
        list_modes=list_modes,
        find_policy=leading.index.find_policy,
        knows_policies=lambda: all(watch.is_synced.is_set() for watch in leading.watches),
        is_leader=lambda: leading.leadership.is_leader,
        list_warnings=list_warnings,
        tokens=configuration.webhook_tokens,
        metrics=metrics,
    )
    authorities.on_change(admission.note_bundle)
    return admission


def list_ca_names(configuration: Configuration) -> frozenset[str]:
    """Return the host names and addresses to which a sidecar of this CA may be sent."""
    service = f"{CA_SERVICE}.{configuration.namespace}"
    told = parse_endpoint(configuration.sidecar_ca)[0]
    return frozenset({service, f"{service}.svc", f"{service}.svc.cluster.local", told, *configuration.names})


def _count(watch: Watch[Any, Any]) -> float:
    return float(watch.describe().objects)
