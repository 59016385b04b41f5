"""What has changed in the cluster and waits to be dealt with: directory entries, and pods that have gone. No I/O.

Belongs here: the queues between the indexes (``pods.py``, ``cluster_services.py``) and what a change sets off. Doesn't:
what it sets off (``ca/runtime/cluster_upkeep.py``). The indexes exist before anything that can be told does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Generic, TypeVar

from ca.kubernetes.cluster.pods import PodRecord

_T = TypeVar("_T")


class Pending(Generic[_T]):
    """Values by key that wait to be taken, each key once, the newest value. Bounded by the keys that there are."""

    def __init__(self) -> None:
        self._values: dict[str, _T] = {}
        self._has_some = asyncio.Event()

    def put(self, key: str, value: _T) -> None:
        """Add a value, or replace the one of this key."""
        self._values[key] = value
        self._has_some.set()

    async def wait(self) -> None:
        """Wait until there is one."""
        await self._has_some.wait()

    def take(self, limit: int | None = None) -> list[_T]:
        """Remove and return those that wait, oldest first, at most ``limit``."""
        keys = list(self._values)[:limit]
        taken = [self._values.pop(key) for key in keys]
        if not self._values:
            self._has_some.clear()
        return taken


class ClusterChanges:
    """The queues.

    Attributes:
        addresses: whose directory entry has changed.
        ended: pods with a sidecar that have ended or were deleted, and whose stream has to end.
        gone: UIDs of the same, whose sidecar has to be forgotten.
    """

    def __init__(self) -> None:
        self.addresses: Pending[str] = Pending()
        self.ended: Pending[PodRecord] = Pending()
        self.gone: Pending[str] = Pending()

    def note_addresses(self, addresses: Iterable[str]) -> None:
        """The directory entries of these addresses have changed."""
        for address in addresses:
            self.addresses.put(address, address)

    def note_gone(self, pod: PodRecord) -> None:
        """This pod has ended or was deleted."""
        if pod.has_sidecar:
            self.ended.put(pod.uid, pod)
            self.gone.put(pod.uid, pod.uid)
