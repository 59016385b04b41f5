"""Admission put together: the webhook's door, the trust ConfigMaps, the webhook's configuration. I/O.

Belongs here: what starts and stops for injection, and what it is told by other parts of the CA. Doesn't: what any of it
does.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

from ca.admission.webhook import InjectionWebhook
from ca.kubernetes.admission import trust_config, webhook_config
from ca.kubernetes.admission.trust_config import ConfigMap, TrustConfigMaps, trim_trust
from ca.kubernetes.admission.webhook_config import Configuration, WebhookConfiguration, trim_configuration
from ca.kubernetes.api.client import ClusterClient, quote_name
from ca.kubernetes.api.watch import Watch
from ca.listening import bind, serve_tls
from ca.runtime.services import Services
from ca.settings.settings import format_endpoint
from shared.model.errors import TouchmarkError
from shared.model.injection.containers import InjectionOptions
from shared.model.kubernetes.contract import TRUST_CONFIG_MAP, WEBHOOK_CONFIGURATION
from shared.runtime.tasks import Tasks

if TYPE_CHECKING:
    from ca.kubernetes.run import Cluster

# Longer than the API server keeps an idle connection (90 s), so that it never uses one that we have just closed.
KEEPALIVE_S: Final = 120.0
LABELS_DEADLINE_S: Final = 1.0
LABELS_AGE_S: Final = 1.0  # A namespace that was just relabelled is judged by its new labels.
MAX_LABELS: Final = 1024
_STOP_S: Final = 5.0

_log = structlog.get_logger("touchmark.ca")


@dataclass(slots=True, kw_only=True)
class Admission:
    """What runs of it.

    Attributes:
        listen: ``host:port`` of the webhook.
        watches: of the objects that are kept.
    """

    listen: str
    trust: TrustConfigMaps
    configuration: WebhookConfiguration
    watches: tuple[Watch[Any, Any], ...]


@contextlib.asynccontextmanager
async def run_injection(services: Services, cluster: Cluster) -> AsyncIterator[Admission]:
    """Run injection as the CA's configuration says, for as long as the context lasts. Raises as ``run_admission``."""
    configuration = services.configuration
    options = InjectionOptions(
        sidecar_image=configuration.sidecar_images[0],
        pull_policy=configuration.sidecar_pull_policy,
        ca_address=configuration.sidecar_ca,
        trust_domain=configuration.trust_domain,
    )

    def list_needing() -> set[str] | None:
        if not cluster.watches["pods"].is_synced.is_set():
            return None
        return {pod.namespace for pod in cluster.pods if pod.has_sidecar and not pod.is_ended}

    async with run_admission(
        services,
        cluster.client,
        cluster.tasks,
        options=options,
        host=configuration.webhook_host,
        port=configuration.webhook_port,
        list_needing=list_needing,
        # Without an election there is one replica.
        is_leader=lambda: cluster.leading is None or cluster.leading.leadership.is_leader,
    ) as admission:
        # To be seen in /v1/cluster; they run already.
        cluster.watches.update({watch.name: watch for watch in admission.watches})
        yield admission


@contextlib.asynccontextmanager
async def run_admission(
    services: Services,
    client: ClusterClient,
    tasks: Tasks,
    *,
    options: InjectionOptions,
    host: str,
    port: int,
    list_needing: Callable[[], Iterable[str] | None],
    is_leader: Callable[[], bool],
) -> AsyncIterator[Admission]:
    """Serve the webhook, and keep what it needs in the cluster, for as long as the context lasts.

    Arguments:
        list_needing: namespaces with injected pods; None while that isn't known.
        is_leader: whether this replica keeps the cluster's objects.

    Raises:
        InputError, UnavailableError: the webhook's port can't be used.
    """

    def read_roots() -> str:
        return "".join(ssl.DER_cert_to_PEM_cert(root) for root in services.authorities.bundle().roots)

    async with contextlib.AsyncExitStack() as stack:
        listener = stack.enter_context(contextlib.closing(bind(host, port)))
        metrics = services.metrics
        trust = TrustConfigMaps(
            client,
            read_roots=read_roots,
            list_needing=list_needing,
            is_leader=is_leader,
            metrics=metrics,
            clock=time.monotonic,
        )
        configuration = WebhookConfiguration(client, read_roots=read_roots, is_leader=is_leader, metrics=metrics)
        # Nobody is shown a root that can't be known, and none goes before its successor has been delivered.
        services.server_certificate.is_known = configuration.is_known
        services.rotation.find_unpublished = lambda root: list_unpublished(
            root, trust, configuration, watches, list_needing=list_needing
        )
        services.authorities.on_change(trust.note_bundle)
        services.authorities.on_change(configuration.note_bundle)
        watches: tuple[Watch[Any, Any], ...] = (
            Watch(
                client,
                trust,
                name="trust-configmaps",
                path=trust_config.PATH,
                query=trust_config.QUERY,
                kind=ConfigMap,
                trim=trim_trust,
                metrics=metrics,
            ),
            Watch(
                client,
                configuration,
                name="webhook-configuration",
                path=webhook_config.PATH,
                query=webhook_config.QUERY,
                kind=Configuration,
                trim=trim_configuration,
                metrics=metrics,
            ),
        )
        running = [
            *(tasks.spawn(watch.run(), name=f"watch-{watch.name}") for watch in watches),
            tasks.spawn(trust.run(), name="trust-configmaps"),
            tasks.spawn(configuration.run(), name="webhook-configuration"),
        ]
        stack.push_async_callback(_end, running)
        webhook = InjectionWebhook(
            options=options, find_labels=NamespaceLabels(client).find, publish_trust=trust.publish, metrics=metrics
        )
        await serve_tls(
            stack,
            webhook.make_application(),
            listener,
            services.server_certificate.context,
            keepalive_s=KEEPALIVE_S,
        )
        listen = format_endpoint(host, listener.getsockname()[1])
        _log.info("webhook_serves", listen=listen)
        yield Admission(listen=listen, trust=trust, configuration=configuration, watches=watches)


def list_unpublished(
    root: bytes,
    trust: TrustConfigMaps,
    configuration: WebhookConfiguration,
    watches: Iterable[Watch[Any, Any]],
    *,
    list_needing: Callable[[], Iterable[str] | None],
) -> list[str]:
    """Return what in the cluster names the CA's roots and lacks this one (DER), for people."""
    unread = [watch.name for watch in watches if not watch.is_synced.is_set()]
    if list_needing() is None:
        unread.append("pods")
    if unread:
        return [f"the cluster, which the CA hasn't read yet ({', '.join(unread)})"]
    missing = [f"ConfigMap {namespace}/{TRUST_CONFIG_MAP}" for namespace in trust.list_without(root)]
    return missing if configuration.has_root(root) else [f"webhook configuration {WEBHOOK_CONFIGURATION}", *missing]


async def _end(running: list[asyncio.Task[None]]) -> None:
    for task in running:
        task.cancel()
    await asyncio.wait(running, timeout=_STOP_S)


class _Metadata(msgspec.Struct, frozen=True):
    labels: dict[str, str] | None = None


class _Namespace(msgspec.Struct, frozen=True):
    metadata: _Metadata


class NamespaceLabels:
    """Labels of namespaces, asked for when they are needed and kept for a moment."""

    def __init__(self, client: ClusterClient) -> None:
        self._client = client
        self._known: dict[str, tuple[float, dict[str, str]]] = {}

    async def find(self, namespace: str) -> Mapping[str, str] | None:
        """Return a namespace's labels; None when they can't be had in time."""
        now = time.monotonic()
        known = self._known.get(namespace)
        if known is not None and now - known[0] < LABELS_AGE_S:
            return known[1]
        try:
            path = f"/api/v1/namespaces/{quote_name(namespace)}"
            found = await self._client.get(path, _Namespace, deadline_s=LABELS_DEADLINE_S)
        except TouchmarkError as error:
            _log.warning("namespace_not_read", namespace=namespace, code=error.code, message=error.message)
            return None
        labels = found.metadata.labels or {}
        self._known.pop(namespace, None)
        while len(self._known) >= MAX_LABELS:
            self._known.pop(next(iter(self._known)))
        self._known[namespace] = (now, labels)
        return labels
