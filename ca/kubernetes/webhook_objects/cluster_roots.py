"""Where a cluster names the CA's roots: the trust ConfigMaps and the webhook's ``caBundle``. No I/O of its own.

Belongs here: what a rotation of the root and the CA's server certificate ask. Doesn't: writing those objects
(``trust_config.py``, ``webhook_config.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ca.kubernetes.api.watch import Watch
from ca.kubernetes.webhook_objects.trust_config import TrustConfigMaps
from ca.kubernetes.webhook_objects.webhook_config import WebhookConfiguration
from shared.model.kubernetes.contract import TRUST_CONFIG_MAP, WEBHOOK_CONFIGURATION


class ClusterRoots:
    """``PublishedRoots`` of a cluster with the webhook.

    Arguments:
        watches: of both kinds of objects.
        list_needing: namespaces with injected pods; None while that isn't known.
    """

    def __init__(
        self,
        *,
        trust: TrustConfigMaps,
        configuration: WebhookConfiguration,
        watches: Iterable[Watch[Any, Any]],
        list_needing: Callable[[], Iterable[str] | None],
    ) -> None:
        self._trust = trust
        self._configuration = configuration
        self._watches = tuple(watches)
        self._list_needing = list_needing

    def list_lacking(self, root: bytes) -> Sequence[str]:
        """Return what in the cluster names the CA's roots and lacks this one (DER), for people."""
        unread = [watch.name for watch in self._watches if not watch.is_synced.is_set()]
        if self._list_needing() is None:
            unread.append("pods")
        if unread:
            return [f"the cluster, which the CA hasn't read yet ({', '.join(unread)})"]
        missing = [f"ConfigMap {namespace}/{TRUST_CONFIG_MAP}" for namespace in self._trust.list_without(root)]
        if self._configuration.has_root(root):
            return missing
        return [f"webhook configuration {WEBHOOK_CONFIGURATION}", *missing]

    def is_known(self, root: bytes) -> bool:
        """Tell whether the API server, which asks the webhook, can know a root (DER) by now."""
        return self._configuration.is_known(root)
