"""Vouches for labels of pods' workloads: those of their *namespace* by which groups are made. I/O through the store.

A ServiceAccount's own labels are left out: anybody who may edit a namespace's content may write them, and could join
another namespace's group by doing so. A namespace's labels take a right of the cluster's (``patch namespaces``). Only
labels that some MeshPolicy groups by are looked at, so that other labels change no state.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from ca.kubernetes.cluster.pods import NamespaceIndex
from ca.store.store import Store
from shared.model.errors import TouchmarkError

COALESCE_S: Final = 0.1
RETRY_S: Final = 5.0
_log = structlog.get_logger("touchmark.ca")


class Vouching:
    """Keeps the vouched labels of pods' workloads as their namespaces' are.

    Arguments:
        is_stale: set when a namespace's labels have changed (``NamespaceIndex``).
    """

    def __init__(self, store: Store, namespaces: NamespaceIndex, *, is_stale: asyncio.Event) -> None:
        self._store = store
        self._namespaces = namespaces
        self._keys: frozenset[str] = frozenset()
        self._is_stale = is_stale

    def note_policy(self, _namespace: str) -> None:
        """A namespace's policy has changed, and with it perhaps what groups are made by: look soon."""
        self._is_stale.set()

    async def load(self) -> None:
        """Read which labels groups are made by; before the first pod joins.

        Raises:
            UnavailableError: the store fails.
        """
        self._keys = await self._store.namespaces.list_group_labels()

    def labels_of(self, namespace: str) -> dict[str, str]:
        """Return the labels to vouch for, of every workload in a namespace."""
        labels = self._namespaces.labels_of(namespace)
        return {key: labels[key] for key in sorted(self._keys) if key in labels}

    async def run(self) -> None:
        """Bring the store up to date after each change, until cancelled. A failure is logged and tried again."""
        while True:
            await self._is_stale.wait()
            await asyncio.sleep(COALESCE_S)
            self._is_stale.clear()
            try:
                await self._bring_up_to_date()
            except TouchmarkError as error:
                _log.warning("labels_not_vouched", code=error.code, message=error.message)
                self._is_stale.set()
                await asyncio.sleep(RETRY_S)

    async def _bring_up_to_date(self) -> None:
        await self.load()
        for workload, vouched in (await self._store.namespaces.list_pod_workloads()).items():
            if workload.namespace in self._namespaces and vouched != (labels := self.labels_of(workload.namespace)):
                await self._store.namespaces.set_labels(workload, labels)
                _log.info("labels_vouched", workload=str(workload), labels=labels)
