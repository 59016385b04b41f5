"""What a change of the cluster sets off: pushes to sidecars, the end of a dead pod's stream and of its record. I/O.

Belongs here: what follows. Doesn't: the changes (``ca/kubernetes/cluster/changes.py``), or what runs (``cluster.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import structlog

from ca.distribution.hub import Hub
from ca.evidence.former_images import FormerImages
from ca.kubernetes.api.watch import Watch
from ca.kubernetes.cluster.changes import ClusterChanges
from ca.kubernetes.cluster.pods import PodIndex
from ca.rotation.rotation import Rotation
from ca.store.store import Store
from shared.model.errors import TouchmarkError
from shared.runtime.tasks import Tasks

# Changes that come together (a rollout, a list) are pushed together.
COALESCE_S: Final = 0.05
RECONCILE_S: Final = 60.0
GRACES_S: Final = 10.0
MAX_FORGOTTEN_AT_ONCE: Final = 500
POD_GONE: Final = "pod_gone"
IMAGE_REMOVED: Final = "image_removed"

_log = structlog.get_logger("touchmark.ca")


class ClusterUpkeep:
    """Deals with what the indexes noted.

    Arguments:
        watch: of the pods.
        former: sidecar images whose pods stay for a grace.
    """

    def __init__(
        self,
        changes: ClusterChanges,
        pods: PodIndex,
        watch: Watch[Any, Any],
        *,
        store: Store,
        hub: Hub,
        rotation: Rotation,
        clock: Callable[[], float],
        former: FormerImages | None = None,
    ) -> None:
        self._changes = changes
        self._pods = pods
        self._watch = watch
        self._store = store
        self._hub = hub
        self._rotation = rotation
        self._clock = clock
        self._former = former or FormerImages()

    def start(self, tasks: Tasks) -> list[asyncio.Task[None]]:
        """Begin, and return what runs."""
        return [
            tasks.spawn(self._publish_addresses(), name="publish-addresses"),
            tasks.spawn(self._end_streams(), name="end-pods-streams"),
            tasks.spawn(self._forget_gone(), name="forget-pods"),
            tasks.spawn(self._reconcile(), name="reconcile-pods"),
            tasks.spawn(self._end_graces(), name="end-graces-of-images"),
        ]

    async def _publish_addresses(self) -> None:
        while True:
            await self._changes.addresses.wait()
            self._hub.publish_addresses(self._changes.addresses.take())
            await asyncio.sleep(COALESCE_S)  # The first change goes at once; what follows it closely, together.

    async def _end_streams(self) -> None:
        """End a pod's stream at once. A stream that opens after this look has looked the pod up itself."""
        while True:
            await self._changes.ended.wait()
            for pod in self._changes.ended.take():
                session = self._hub.get(pod.instance)
                if session is not None and session.pod_uid == pod.uid:
                    session.end(POD_GONE)

    async def _forget_gone(self) -> None:
        """Forget the sidecars of pods that are gone: nothing waits for their acknowledgement any more."""
        while True:
            await self._changes.gone.wait()
            await asyncio.sleep(COALESCE_S)
            while gone := self._changes.gone.take(MAX_FORGOTTEN_AT_ONCE):
                await self._delete(gone)

    async def _delete(self, uids: list[str]) -> None:
        try:
            if await self._store.sidecars.delete_of_pods(uids):
                self._rotation.poke()  # It may have waited for one of them alone.
        except TouchmarkError as error:  # The next reconciliation finds them again.
            _log.warning("pods_not_forgotten", pods=len(uids), code=error.code, message=error.message)

    async def _end_graces(self) -> None:
        """End the streams of pods whose sidecar's image was taken out and whose grace is over."""
        while True:
            now = self._clock()
            for pod in list(self._pods):
                session = (
                    self._hub.get(pod.instance)
                    if pod.former_image and now >= self._former.end_of(pod.former_image)
                    else None
                )
                if session is not None and session.pod_uid == pod.uid:
                    session.end(IMAGE_REMOVED)
            await asyncio.sleep(GRACES_S)

    async def _reconcile(self) -> None:
        """Forget sidecars whose pods went unseen: while this CA, or the API server, was down."""
        await self._watch.is_synced.wait()
        while True:
            try:
                # Those that joined a moment ago may be ahead of the watch of this replica.
                joined = await self._store.sidecars.list_of_pods(joined_before=self._clock() - RECONCILE_S)
                gone = [uid for uid in joined.values() if self._pods.get(uid) is None]
                is_fresh = self._watch.age_s() < RECONCILE_S * 3
                for begin in range(0, len(gone) if is_fresh else 0, MAX_FORGOTTEN_AT_ONCE):
                    await self._delete(gone[begin : begin + MAX_FORGOTTEN_AT_ONCE])
            except TouchmarkError as error:
                _log.warning("pods_not_reconciled", code=error.code, message=error.message)
            await asyncio.sleep(RECONCILE_S)
