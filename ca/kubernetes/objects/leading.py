"""What the leading replica does: objects into the store, status back; and the election that decides who leads. I/O.

Every replica watches the objects, so that a new leader begins at once. Belongs here: what starts and stops. Doesn't:
the election (``ca/kubernetes/api/lease.py``), the objects' meaning (``objects.py``), or their status (``status.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Final

import structlog

from ca.kubernetes.api.client import ClusterClient
from ca.kubernetes.api.lease import Leadership
from ca.kubernetes.api.watch import Watch
from ca.kubernetes.objects.objects import (
    MESH_POLICY,
    PLURALS,
    PROGRAM,
    ObjectIndex,
    ObjectWriter,
    RawObject,
    WatchedObject,
    collection_path,
    fit_into,
    read_object,
)
from ca.kubernetes.objects.room import Room
from ca.kubernetes.objects.status import StatusWriter
from ca.metrics import Metrics
from ca.store.store import Store
from shared.model.kubernetes.contract import SYSTEM_NAMESPACE
from shared.runtime.tasks import Tasks

KINDS: Final = (MESH_POLICY, PROGRAM)
_END_S: Final = 8.0  # Longer than giving the Lease back may take.
_log = structlog.get_logger("touchmark.ca")


class Leading:
    """The parts, by name.

    Attributes:
        watches: of the two kinds, for people.
    """

    def __init__(
        self,
        client: ClusterClient,
        *,
        store: Store,
        metrics: Metrics,
        clock: Callable[[], float],
        namespace: str = SYSTEM_NAMESPACE,
        may_lead: Callable[[], bool] = lambda: True,
    ) -> None:
        self.leadership = Leadership(client, namespace=namespace, may_lead=may_lead)
        self.index = ObjectIndex()
        self.watches: tuple[Watch[RawObject, WatchedObject], ...] = tuple(
            Watch(
                client,
                self.index.sink(kind),
                name=PLURALS[kind],
                path=collection_path(kind),
                kind=RawObject,
                trim=read_object(kind),
                metrics=metrics,
                fit=lambda: fit_into(Room()),
            )
            for kind in KINDS
        )
        self.index.on_room = self._list_programs_soon
        self._client = client
        self._store = store
        self._clock = clock

    def _list_programs_soon(self) -> None:
        self.watches[KINDS.index(PROGRAM)].list_soon()

    async def work(self) -> None:
        """Do the leader's work until cancelled."""
        for watch in self.watches:
            # Before all is known, what is missing would look deleted.
            await watch.is_synced.wait()
        writer = ObjectWriter(
            self._store,
            self.index,
            may_write=lambda: self.leadership.is_leader,
            clock=self._clock,
            on_outcome=lambda: status.poke(),
        )
        status = StatusWriter(
            self._client,
            self._store,
            self.index,
            writer.outcomes,
            may_write=lambda: self.leadership.is_leader,
            clock=self._clock,
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(writer.run(), name="object-writer")
            group.create_task(status.run(), name="status-writer")


@contextlib.asynccontextmanager
async def run_leading(leading: Leading) -> AsyncIterator[None]:
    """Watch, and stand for election, for as long as the context lasts; the Lease is given back at its end."""
    tasks = Tasks(_note_failure)
    for watch in leading.watches:
        tasks.spawn(watch.run(), name=f"watch-{watch.name}")
    tasks.spawn(leading.leadership.run(leading.work), name="leading")
    try:
        yield
    finally:
        await tasks.close(timeout_s=_END_S)


def _note_failure(name: str, error: BaseException) -> None:
    _log.error("task_failed", task=name, error=repr(error))
