"""Keeps up with the other replicas: notices what they changed, and pushes it to this replica's streams.

I/O through the store.

Belongs here: what is looked at, and what follows from it. Doesn't: the questions (``ca/store/replicas.py``), or who
leads. Only for a database that several share; a CA with SQLite is alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from ca.authority.authorities import Authorities
from ca.distribution.database_clock import DatabaseClock
from ca.distribution.foreign_trust import ForeignTrust
from ca.distribution.hub import Hub
from ca.metrics import Metrics
from ca.store.replicas import Marks
from ca.store.store import Store
from shared.model.errors import TouchmarkError

POLL_S: Final = 1.0
BEAT_S: Final = 5.0
MOVED: Final = "moved"
_NOTHING: Final = Marks(bundle_sequence=-1, namespaces=-1, registrations=-1, authorities=-1, decisions=-1, foreign=-1)
_log = structlog.get_logger("touchmark.ca")


class ReplicaSync:
    """Looks at the marks once a second, and does what each change means.

    A mark is taken as seen once its change was dealt with, so that a failure is made up for in the next turn.

    Arguments:
        on_decisions: called when another replica has stored decisions.
    """

    def __init__(
        self,
        *,
        store: Store,
        authorities: Authorities,
        hub: Hub,
        foreign: ForeignTrust,
        on_decisions: Callable[[], None],
        database_clock: DatabaseClock,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._authorities = authorities
        self._hub = hub
        self._foreign = foreign
        self._on_decisions = on_decisions
        self._database_clock = database_clock
        self._metrics = metrics
        self._clock = clock
        self._seen = _NOTHING
        self._versions: dict[str, int] = {}
        self._fault = ""

    async def start(self) -> None:
        """Write the first sign of life, and take what is there as seen.

        Raises:
            UnavailableError: the store fails.
        """
        await self._store.replicas.beat()
        self._seen = await self._store.replicas.read_marks()
        self._versions = await self._list_versions()

    async def run(self) -> None:
        """Follow until cancelled. Failures are logged and made up for."""
        await asyncio.gather(self._repeat(POLL_S, self.look), self._repeat(BEAT_S, self._beat))

    async def look(self) -> None:
        """Look once.

        Raises:
            UnavailableError: the store fails.
        """
        marks, seen = await self._store.replicas.read_marks(), self._seen
        if (marks.authorities, marks.bundle_sequence) != (seen.authorities, seen.bundle_sequence):
            self._hub.end_evicted(await self._store.evictions.list_instances())
            await self._authorities.reload()  # Its listeners push.
        if marks.namespaces != seen.namespaces:
            await self._announce_namespaces()
        if marks.registrations != seen.registrations:
            begun = self._hub.directory.begin_refresh()
            live = await self._store.sidecars.list_live(now=self._clock(), with_evicted=True)
            self._hub.publish_addresses(self._hub.directory.refresh(live, begun=begun))
            await self._end_moved()
        if marks.foreign != seen.foreign:
            await self._foreign.reload()
        if marks.decisions != seen.decisions:
            self._on_decisions()
        self._seen = marks

    async def _announce_namespaces(self) -> None:
        for namespace, version in (await self._list_versions()).items():
            if version != self._versions.get(namespace):
                self._versions[namespace] = version
                self._store.namespaces.announce(namespace)

    async def _end_moved(self) -> None:
        """End streams whose sidecar has opened another one elsewhere: one stream per sidecar, with any replica."""
        hub = self._hub
        opened = {session.instance: session for session in hub}
        for instance in await self._store.replicas.find_moved(opened):
            session = hub.get(instance)
            if session is not None and session is opened[instance]:
                session.end(MOVED)

    async def _beat(self) -> None:
        await self._database_clock.measure()
        closed = await self._store.replicas.beat(frozenset(session.instance for session in self._hub))
        if closed:
            _log.warning("replica_ended", streams=closed)

    async def _list_versions(self) -> dict[str, int]:
        return {name: version for name, (version, *_) in (await self._store.namespaces.list_versions()).items()}

    async def _repeat(self, interval_s: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(interval_s)
            try:
                await work()
            except TouchmarkError as error:
                self._metrics.failures.labels(where="following").inc()
                if error.message != self._fault:  # A database may be away for hours.
                    self._fault = error.message
                    _log.warning("following_failed", code=error.code, message=error.message)
            else:
                self._fault = ""
