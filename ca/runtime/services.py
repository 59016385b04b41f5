"""What the CA's request handlers work with: one of each, made by ``ca/runtime/run.py``. No behaviour beyond two
look-ups.

Belongs here: the parts by name. Doesn't: how they start and stop.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ca.authority.authorities import Authorities
from ca.authority.kek import KeyEncryptionKey
from ca.authority.server_certificate import ServerCertificate
from ca.distribution.foreign_trust import ForeignTrust
from ca.distribution.hub import Hub
from ca.distribution.live_connections import Survey
from ca.issuance import Issuance
from ca.metrics import Metrics
from ca.observation.decisions import Decisions
from ca.rotation.rotation import Rotation
from ca.settings.settings import Configuration
from ca.store.store import Store
from shared.model.trust.certificate import BundleVerifier

if TYPE_CHECKING:  # Outside a cluster its client library, 20 MiB, is never loaded.
    from ca.kubernetes.run import Cluster


@dataclass(slots=True, kw_only=True)
class Services:
    """The CA's parts.

    Attributes:
        listen: ``host:port`` on which it really listens.
        admin_listen: ``host:port`` of the admin API's loopback door; empty: there is none.
        clock: seconds since the epoch.
        cluster: with ``--kubernetes`` only.
    """

    configuration: Configuration
    kek: KeyEncryptionKey
    store: Store
    authorities: Authorities
    issuance: Issuance
    rotation: Rotation
    server_certificate: ServerCertificate
    hub: Hub
    survey: Survey
    decisions: Decisions
    foreign: ForeignTrust
    metrics: Metrics
    listen: str
    started: float
    admin_listen: str = ""
    clock: Callable[[], float] = time.time
    cluster: Cluster | None = None
    _verifier: BundleVerifier | None = field(default=None, repr=False)

    @property
    def is_leader(self) -> bool:
        """Whether this replica does what one of several does: rotation, retention, policy objects.

        Outside a cluster nobody is elected, and every replica does it: each step is compare-and-swap.
        """
        if not self.configuration.kubernetes:
            return True
        leading = self.cluster.leading if self.cluster is not None else None
        return leading is not None and leading.leadership.is_leader

    @property
    def verifier(self) -> BundleVerifier:
        """The verifier of the trust bundle of now."""
        bundle = self.authorities.bundle()
        if self._verifier is None or self._verifier.bundle != bundle:
            self._verifier = BundleVerifier(bundle)
        return self._verifier
