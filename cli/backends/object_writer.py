"""Writing one object by server-side apply beside other tools that write it too, and waiting for the CA's word. I/O.

Belongs here: whose fields are taken over, retries, the deadline of a wait. Doesn't: what an object says
(``objects.py``), or which are written for a command (``cluster.py``).
"""

from __future__ import annotations

import asyncio
from typing import Final

from cli.backends import objects
from cli.cluster.connection import Cluster, Kind, Object
from cli.cluster.faults import ChangedError, OwnedElsewhereError
from shared.model.errors import RefusedError

ACCEPTANCE_DEADLINE_S: Final = 10.0
MAX_ATTEMPTS: Final = 3
_POLL_S: Final = 0.25


class ObjectWriter:
    """Writes a cluster's policies and programs.

    Arguments:
        is_forced: take over fields that other tools own.
    """

    def __init__(self, cluster: Cluster, *, is_forced: bool) -> None:
        self._cluster = cluster
        self._is_forced = is_forced

    async def write(self, kind: Kind, value: Object, *, manager: str, dry_run: bool = False) -> Object:
        """Apply an object's fields. Fields of our other manager are taken over; fields of others only by force.

        Raises:
            OwnedElsewhereError: others own fields of it.
        """
        try:
            return await self._cluster.apply(kind, value, manager=manager, force=self._is_forced, dry_run=dry_run)
        except OwnedElsewhereError as error:
            objects.refuse_others(error)
        metadata = value["metadata"]
        for attempt in range(MAX_ATTEMPTS):
            # Forcing would take over what others write in between. Pinned to a version in which no other manager has
            # a part, it can't.
            current = await self._cluster.get(kind, metadata["namespace"], metadata["name"])
            try:
                return await self.write_pinned(kind, value, current, manager=manager, dry_run=dry_run)
            except ChangedError:
                if attempt == MAX_ATTEMPTS - 1:
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def write_pinned(
        self, kind: Kind, value: Object, current: Object, *, manager: str, dry_run: bool = False
    ) -> Object:
        """Write only over this version of the object.

        Raises:
            ChangedError: it is another one by now.
            OwnedElsewhereError: others own fields of it.
        """
        version = current["metadata"]["resourceVersion"]
        pinned = {**value, "metadata": {**value["metadata"], "resourceVersion": version}}
        try:
            return await self._cluster.apply(kind, pinned, manager=manager, force=self._is_forced, dry_run=dry_run)
        except OwnedElsewhereError as error:
            objects.refuse_others(error)
        return await self._cluster.apply(kind, pinned, manager=manager, force=True, dry_run=dry_run)

    async def wait_for_acceptance(self, kind: Kind, written: Object) -> Object:
        """Return the object once the CA has looked at it, or as it is when the deadline passes.

        Raises:
            RefusedError: the CA refuses it.
        """
        metadata = written["metadata"]
        deadline = asyncio.get_running_loop().time() + ACCEPTANCE_DEADLINE_S
        seen = written
        while not objects.is_accepted(seen):
            if fault := objects.read_fault(seen):
                raise RefusedError(
                    f"{written.get('kind', kind.plural)} {metadata['namespace']}/{metadata['name']} is written, but"
                    f" the CA refuses it: {fault}",
                    hint="the previous version stays in force",
                )
            if asyncio.get_running_loop().time() >= deadline:
                break
            await asyncio.sleep(_POLL_S)
            seen = await self._cluster.get(kind, metadata["namespace"], metadata["name"])
        return seen
