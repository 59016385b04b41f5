"""Admission composed: the webhook's listener, the trust ConfigMaps, the webhook's configuration. I/O.

Belongs here: what starts and stops for injection. Doesn't: what any of it does.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog

from ca.admission.policy_review import JudgePolicy
from ca.admission.webhook import InjectionWebhook, NamespaceMarks
from ca.connections import ConnectionRoom
from ca.kubernetes.api.client import ClusterClient, quote_name
from ca.kubernetes.api.watch import Watch
from ca.kubernetes.webhook_objects import trust_config, webhook_config
from ca.kubernetes.webhook_objects.cluster_roots import ClusterRoots
from ca.kubernetes.webhook_objects.mode_notes import ModeNotes, Modes
from ca.kubernetes.webhook_objects.trust_config import ConfigMap, TrustConfigMaps, trim_trust
from ca.kubernetes.webhook_objects.webhook_config import Configuration, WebhookConfiguration, trim_configuration
from ca.listening import bind, serve_tls
from ca.metrics import Metrics
from ca.settings.configuration import format_endpoint
from shared.model.errors import TouchmarkError
from shared.model.injection.containers import InjectionOptions
from shared.model.kubernetes.contract import GROUP
from shared.model.policy.documents import MeshPolicyDocument
from shared.model.trust.bundle import TrustBundle
from shared.runtime.tasks import Tasks

# Longer than the API server keeps an idle connection (90 s), so that it never uses one that we have just closed.
KEEPALIVE_S: Final = 120.0
# An API server opens one for each pod that it has judged at the same time.
MAX_CONNECTIONS: Final = 512
NAMESPACE_DEADLINE_S: Final = 1.0
NAMESPACE_AGE_S: Final = 1.0  # A namespace that was just changed is judged by what it says now.
MAX_NAMESPACES: Final = 1024
_STOP_S: Final = 5.0

_log = structlog.get_logger("touchmark.ca")


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The parts of it.

    Attributes:
        roots: where the cluster names the CA's roots.
        watches: of the objects that are kept.
    """

    webhook: InjectionWebhook
    trust: TrustConfigMaps
    mode_notes: ModeNotes
    configuration: WebhookConfiguration
    roots: ClusterRoots
    watches: tuple[Watch[Any, Any], ...]

    def note_bundle(self) -> None:
        """The trust bundle has changed."""
        self.trust.note_bundle()
        self.configuration.note_bundle()


def make_admission(
    client: ClusterClient,
    *,
    options: InjectionOptions,
    read_bundle: Callable[[], TrustBundle],
    list_needing: Callable[[], Iterable[str] | None],
    judge_policy: JudgePolicy,
    list_modes: Callable[[], Awaitable[Modes]],
    find_policy: Callable[[str], MeshPolicyDocument | None],
    knows_policies: Callable[[], bool],
    is_leader: Callable[[], bool],
    metrics: Metrics,
    list_warnings: Callable[[], Sequence[str]] = tuple,
    tokens: Sequence[str] = (),
) -> Admission:
    """Make the parts. Nothing runs yet.

    Arguments:
        read_bundle: the current trust bundle.
        list_needing: namespaces with injected pods; None while that isn't known.
        judge_policy: refuses a MeshPolicy that would refuse connections that were seen.
        list_modes: the modes in force.
        find_policy: what a namespace's MeshPolicy says, once this replica ``knows_policies``.
        is_leader: whether this replica keeps the cluster's objects.
        list_warnings: what whoever makes an injected pod is told besides.
        tokens: one of which the API server has to show; none: anybody may ask the webhook.
    """

    def read_roots() -> str:
        return "".join(ssl.DER_cert_to_PEM_cert(root) for root in read_bundle().roots)

    trust = TrustConfigMaps(
        client,
        read_roots=read_roots,
        list_needing=list_needing,
        is_leader=is_leader,
        metrics=metrics,
        clock=time.monotonic,
    )
    mode_notes = ModeNotes(
        client,
        list_notes=trust.list_notes,
        list_modes=list_modes,
        find_policy=find_policy,
        is_leader=lambda: is_leader() and knows_policies(),
        metrics=metrics,
        clock=time.monotonic,
    )
    configuration = WebhookConfiguration(client, read_roots=read_roots, is_leader=is_leader, metrics=metrics)
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
    return Admission(
        webhook=InjectionWebhook(
            options=options,
            find_namespace=Namespaces(client).find,
            publish_trust=trust.publish,
            judge_policy=judge_policy,
            metrics=metrics,
            list_warnings=list_warnings,
            tokens=tokens,
        ),
        trust=trust,
        mode_notes=mode_notes,
        configuration=configuration,
        roots=ClusterRoots(trust=trust, configuration=configuration, watches=watches, list_needing=list_needing),
        watches=watches,
    )


@contextlib.asynccontextmanager
async def run_admission(
    admission: Admission, tasks: Tasks, *, host: str, port: int, context: ssl.SSLContext
) -> AsyncIterator[str]:
    """Serve the webhook, and keep what it needs in the cluster, for as long as the context lasts.

    Yields ``host:port`` of the webhook.

    Raises:
        InputError, UnavailableError: the webhook's port can't be used.
    """
    async with contextlib.AsyncExitStack() as stack:
        listener = stack.enter_context(contextlib.closing(bind(host, port)))
        running = [
            *(tasks.spawn(watch.run(), name=f"watch-{watch.name}") for watch in admission.watches),
            tasks.spawn(admission.trust.run(), name="trust-configmaps"),
            tasks.spawn(admission.mode_notes.run(), name="mode-notes"),
            tasks.spawn(admission.configuration.run(), name="webhook-configuration"),
        ]
        stack.push_async_callback(_end, running)
        room = ConnectionRoom(MAX_CONNECTIONS, note_closed=lambda: None)
        application = admission.webhook.make_application()
        await serve_tls(stack, application, listener, context, room=room, keepalive_s=KEEPALIVE_S)
        listen = format_endpoint(host, listener.getsockname()[1])
        _log.info("webhook_serves", listen=listen, authenticates=admission.webhook.authenticates)
        yield listen


async def _end(running: list[asyncio.Task[None]]) -> None:
    for task in running:
        task.cancel()
    await asyncio.wait(running, timeout=_STOP_S)


class _Metadata(msgspec.Struct, frozen=True):
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class _Namespace(msgspec.Struct, frozen=True):
    metadata: _Metadata


class Namespaces:
    """What namespaces say, asked for when it is needed and kept for a moment."""

    def __init__(self, client: ClusterClient) -> None:
        self._client = client
        self._known: dict[str, tuple[float, NamespaceMarks]] = {}

    async def find(self, namespace: str) -> NamespaceMarks | None:
        """Return what a namespace says, or said last; None when it was never had, and can't be in time."""
        now = time.monotonic()
        known = self._known.get(namespace)
        if known is not None and now - known[0] < NAMESPACE_AGE_S:
            return known[1]
        try:
            path = f"/api/v1/namespaces/{quote_name(namespace)}"
            found = await self._client.get(path, _Namespace, deadline_s=NAMESPACE_DEADLINE_S)
        except TouchmarkError as error:
            _log.warning("namespace_not_read", namespace=namespace, code=error.code, message=error.message)
            return None if known is None else known[1]
        metadata = found.metadata
        annotations = {
            name: text for name, text in (metadata.annotations or {}).items() if name.startswith(f"{GROUP}/")
        }
        marks = NamespaceMarks(labels=metadata.labels or {}, annotations=annotations)
        self._known.pop(namespace, None)
        while len(self._known) >= MAX_NAMESPACES:
            self._known.pop(next(iter(self._known)))
        self._known[namespace] = (now, marks)
        return marks
