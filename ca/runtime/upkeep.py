"""What the CA does by itself: pushes after changes, renewals, retention, forgetting the dead. I/O through the parts.

Belongs here: when. Doesn't: how (the parts do it), or what starts (``run.py``). What follows a change of the cluster is
in ``cluster_upkeep.py``, what follows another replica's in ``ca/distribution/replica_sync.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from ca.authority.authorities import Authorities
from ca.authority.server_certificate import ServerCertificate
from ca.distribution.hub import Hub
from ca.metrics import Metrics
from ca.observation.decisions import PRUNE_INTERVAL_S, Decisions
from ca.observation.edge_retention import EDGES_PRUNE_INTERVAL_S, EdgeRetention
from ca.observation.programs_seen import FLUSH_INTERVAL_S, ProgramsSeen
from ca.runtime.gauges import LOOK_INTERVAL_S, Gauges
from ca.runtime.laggards import CHECK_INTERVAL_S, Laggards
from ca.store.store import Store
from shared.model.errors import TouchmarkError, UnavailableError
from shared.runtime.tasks import Tasks

REFRESH_INTERVAL_S: Final = 15.0
CERTIFICATE_CHECK_S: Final = 5.0
TRIALS_CHECK_S: Final = 1.0
# What has ended (certificates, join tokens, sidecars) is shown that long; a ledger for ever would fill the disk.
LEDGER_KEPT_S: Final = 30 * 86_400.0

_log = structlog.get_logger("touchmark.ca")


class Publishing:
    """Pushes to the sidecars what has changed: namespaces, the trust bundle, the authority that signs."""

    def __init__(
        self,
        *,
        store: Store,
        authorities: Authorities,
        server_certificate: ServerCertificate,
        hub: Hub,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._authorities = authorities
        self._server_certificate = server_certificate
        self._hub = hub
        self._clock = clock
        self._changed_namespaces: set[str] = set()
        self._has_changes = asyncio.Event()
        self._signer = authorities.active.authority_id
        self._sequence = authorities.bundle().sequence

    def start(self, tasks: Tasks) -> None:
        """Listen to the store and to the authorities; ends with the tasks."""
        self._store.namespaces.on_change(self.note_namespace)
        self._authorities.on_change(self.note_authorities)
        tasks.spawn(self._publish_namespaces(), name="publish-namespaces")

    def note_namespace(self, namespace: str) -> None:
        """The store has committed a change of this namespace."""
        self._changed_namespaces.add(namespace)
        self._has_changes.set()

    def note_authorities(self) -> None:
        """The bundle or the signing authority has changed: push, and have all sidecars renew when the signer did."""
        bundle = self._authorities.bundle()
        if bundle.sequence != self._sequence:
            self._sequence = bundle.sequence
            self._hub.publish_bundle(bundle)
        if self._server_certificate.is_due(now=self._clock()):
            self._server_certificate.renew(now=self._clock())
        signer = self._authorities.active.authority_id
        if signer != self._signer:
            self._signer = signer
            self._hub.publish_reissue()
            _log.info("signer_changed", issuer=signer)

    async def _publish_namespaces(self) -> None:
        while True:
            await self._has_changes.wait()
            self._has_changes.clear()
            while self._changed_namespaces:
                namespace = self._changed_namespaces.pop()
                try:
                    self._hub.publish_namespace(await self._store.namespaces.get_state(namespace))
                except UnavailableError as error:
                    _log.warning("namespace_not_published", namespace=namespace, message=error.message)
                    self._changed_namespaces.add(namespace)
                    await asyncio.sleep(1.0)


class Upkeep:
    """What is done every few seconds.

    Arguments:
        is_leader: whether this replica does what one of several does.
    """

    def __init__(
        self,
        *,
        store: Store,
        authorities: Authorities,
        server_certificate: ServerCertificate,
        hub: Hub,
        decisions: Decisions,
        programs: ProgramsSeen,
        edges: EdgeRetention,
        is_leader: Callable[[], bool],
        laggards: Laggards,
        gauges: Gauges,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._authorities = authorities
        self._server_certificate = server_certificate
        self._hub = hub
        self._decisions = decisions
        self._programs = programs
        self._edges = edges
        self._laggards = laggards
        self._gauges = gauges
        self._is_leader = is_leader
        self._metrics = metrics
        self._clock = clock

    def start(self, tasks: Tasks) -> None:
        """Begin; ends with the tasks."""
        self._metrics.bundle_sequence.set(self._authorities.bundle().sequence)
        tasks.spawn(self._repeat(CERTIFICATE_CHECK_S, self._renew_certificate), name="server-certificate")
        tasks.spawn(self._repeat(TRIALS_CHECK_S, self._end_trials), name="mode-trials")
        tasks.spawn(self._repeat(FLUSH_INTERVAL_S, self._programs.flush), name="programs-seen")
        tasks.spawn(self._repeat(REFRESH_INTERVAL_S, self._refresh_directory), name="directory")
        tasks.spawn(self._repeat(CHECK_INTERVAL_S, self._laggards.check), name="laggards")
        tasks.spawn(self._repeat(LOOK_INTERVAL_S, self._gauges.look), name="gauges")
        tasks.spawn(self._repeat(PRUNE_INTERVAL_S, self._prune), name="retention")
        tasks.spawn(self._repeat(EDGES_PRUNE_INTERVAL_S, self._prune_edges), name="edges-retention")

    async def _repeat(self, interval_s: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(interval_s)
            try:
                await work()
            except TouchmarkError as error:
                self._metrics.failures.labels(where="upkeep").inc()
                _log.warning("upkeep_failed", code=error.code, message=error.message)

    async def _renew_certificate(self) -> None:
        if self._server_certificate.is_due(now=self._clock()):
            self._server_certificate.renew(now=self._clock())
        self._metrics.server_not_after.set(self._server_certificate.not_after)
        issuer = self._authorities.active.certificate
        self._metrics.issuer_not_after.set(issuer.not_valid_after_utc.timestamp())
        self._metrics.root_not_after.set(self._authorities.snapshot.root.record.not_after)

    async def _end_trials(self) -> None:
        if self._is_leader():
            await self._store.history.end_due_trials(now=self._clock())

    async def _refresh_directory(self) -> None:
        begun = self._hub.directory.begin_refresh()
        live = await self._store.sidecars.list_live(now=self._clock(), with_evicted=True)
        self._hub.publish_addresses(self._hub.directory.refresh(live, begun=begun))

    async def _prune(self) -> None:
        if not self._is_leader():
            return
        now = self._clock()
        await self._decisions.prune(now=now)
        long_ago = now - LEDGER_KEPT_S
        # In portions, between which others write.
        while await self._store.sightings.prune(now=now):
            pass
        while await self._store.ledger.prune(expired_before=long_ago):
            pass
        while await self._store.join_tokens.prune(expired_before=long_ago):
            pass
        if await self._store.evictions.prune(now=now):
            await self._authorities.reload()
        await self._store.sidecars.delete_silent(silent_since=long_ago, now=now)
        while await self._store.renewal_keys.prune(spent_before=long_ago):
            pass

    async def _prune_edges(self) -> None:
        if self._is_leader():
            await self._edges.prune(now=self._clock())
