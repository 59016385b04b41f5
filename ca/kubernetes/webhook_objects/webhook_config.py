"""The MutatingWebhookConfiguration ``touchmark``: the CA keeps its ``caBundle``, and nothing else of it. I/O.

Belongs here: by which roots the API server knows our webhook, now and after every change of the trust bundle or of the
object. Doesn't: the object itself (``manifests/base/webhook.yaml``), or the webhook's certificate
(``ca/authority/server_certificate.py``).

All roots of the bundle stand in it: a rotation of the root is there before anything is signed with it.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import structlog

from ca.kubernetes.api.client import ClusterClient
from ca.metrics import Metrics
from shared.model.errors import TouchmarkError
from shared.model.kubernetes.contract import WEBHOOK_CONFIGURATION

PATH: Final = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
QUERY: Final = {"fieldSelector": f"metadata.name={WEBHOOK_CONFIGURATION}"}
CHECK_INTERVAL_S: Final = 1.0  # Nothing else tells a new leader; a look costs a comparison.
CALL_DEADLINE_S: Final = 5.0
# An API server's own look at the object is as old as its watch: with several of them, and one under load.
SETTLED_S: Final = 5.0
_FIRST_BACKOFF_S: Final = 0.2
_MAX_BACKOFF_S: Final = 30.0

_END: Final = "-----END CERTIFICATE-----\n"

_log = structlog.get_logger("touchmark.ca")


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    resource_version: str = ""


class _ClientConfig(msgspec.Struct, frozen=True, rename="camel"):
    ca_bundle: str = ""


class _Webhook(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    client_config: _ClientConfig = _ClientConfig()


class Configuration(msgspec.Struct, frozen=True):
    """The fields that count of a MutatingWebhookConfiguration."""

    metadata: _Metadata
    webhooks: tuple[_Webhook, ...] = ()


class WebhookConfiguration:
    """Keeps the ``caBundle`` of each of its webhooks; the sink of its watch.

    Arguments:
        read_roots: the bundle's current roots, as PEM.
        is_leader: whether this replica keeps it.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        client: ClusterClient,
        *,
        read_roots: Callable[[], str],
        is_leader: Callable[[], bool],
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._read_roots = read_roots
        self._is_leader = is_leader
        self._metrics = metrics
        self._clock = clock
        self._found: Configuration | None = None
        self._since: dict[str, float] = {}  # PEM that every webhook has → since when this was seen.
        self._changed = asyncio.Event()

    @property
    def is_current(self) -> bool:
        """The API server knows our webhook by the current roots."""
        bundle = self._encode()
        return self._found is not None and all(
            webhook.client_config.ca_bundle == bundle for webhook in self._found.webhooks
        )

    def has_root(self, root: bytes) -> bool:
        """Tell whether each webhook's ``caBundle`` holds a root (DER), or there is no configuration that could."""
        return self._found is None or ssl.DER_cert_to_PEM_cert(root) in self._since

    def is_known(self, root: bytes) -> bool:
        """Tell whether the API server can know a root (DER) by now: it has been in each ``caBundle`` for a while."""
        since = self._since.get(ssl.DER_cert_to_PEM_cert(root))
        return self._found is None or (since is not None and self._clock() - since >= SETTLED_S)

    def __len__(self) -> int:
        return int(self._found is not None)

    def replace(self, values: Sequence[Configuration]) -> None:
        """These are all there are."""
        self._take(next(iter(values), None))
        self._changed.set()

    def apply(self, value: Configuration) -> None:
        """It is new or has changed."""
        self._take(value)
        self._changed.set()

    def remove(self, value: Configuration) -> None:
        """It has been deleted: no pod asks us any more. The installation makes it, not the CA."""
        self._take(None)
        _log.warning("webhook_configuration_deleted", name=value.metadata.name)

    def note_bundle(self) -> None:
        """The trust bundle has changed."""
        self._changed.set()

    async def run(self) -> None:
        """Keep it, until cancelled."""
        failures = 0
        while True:
            try:
                async with asyncio.timeout(CHECK_INTERVAL_S):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            if self._found is None or self.is_current or not self._is_leader():
                continue
            try:
                await self._write(self._found)
                failures = 0
            except TouchmarkError as error:
                # Somebody else changed it at the same moment, or the API server is away: the watch tells, or time.
                failures += 1
                self._metrics.failures.labels(where="webhook_config").inc()
                _log.warning("webhook_configuration_not_kept", code=error.code, message=error.message)
                await asyncio.sleep(min(_MAX_BACKOFF_S, _FIRST_BACKOFF_S * 2.0 ** min(failures, 16)))
                self._changed.set()

    async def _write(self, found: Configuration) -> None:
        bundle = self._encode()
        operations: list[dict[str, Any]] = [
            # An entry's place may have changed.
            {"op": "test", "path": "/metadata/resourceVersion", "value": found.metadata.resource_version}
        ]
        for index, webhook in enumerate(found.webhooks):
            if webhook.client_config.ca_bundle != bundle:
                path = f"/webhooks/{index}/clientConfig/caBundle"
                operations.append({"op": "add", "path": path, "value": bundle})
        answer = await self._client.ask(
            "PATCH",
            f"{PATH}/{WEBHOOK_CONFIGURATION}",
            query={"fieldManager": "touchmark"},
            body=operations,
            content_type="application/json-patch+json",
            deadline_s=CALL_DEADLINE_S,
        )
        if (
            self._found is found
        ):  # Else the watch has told something since: this answer may be older, even of one deleted.
            self._take(msgspec.json.decode(answer, type=Configuration))
        _log.info("webhook_configuration_kept", webhooks=len(operations) - 1)

    def _take(self, found: Configuration | None) -> None:
        self._found = found
        now, held = self._clock(), [_split(each.client_config.ca_bundle) for each in found.webhooks] if found else []
        common = frozenset.intersection(*held) if held else frozenset()
        self._since = {pem: self._since.get(pem, now) for pem in common}

    def _encode(self) -> str:
        return base64.b64encode(self._read_roots().encode()).decode()


def _split(bundle: str) -> frozenset[str]:
    """Return the certificates of a ``caBundle``, each as the PEM that we write; none of what can't be read."""
    try:
        text = base64.b64decode(bundle, validate=True).decode("ascii")
    except ValueError:
        return frozenset()
    return frozenset(f"{part}{_END}" for part in text.split(_END)[:-1])


def trim_configuration(found: Configuration) -> Configuration:
    """Remember what was decoded: these few fields."""
    return found
