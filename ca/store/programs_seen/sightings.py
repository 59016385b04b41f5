"""Programs that sidecars have seen, in the store, bounded for each workload. I/O.

Belongs here: the rows. Doesn't: what sidecars may say (``ca/observation/programs_seen.py``), or what waits for an
answer (``shared/model/adoption/program_queue.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

import msgspec
from sqlalchemy import delete, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.store.engine.database import Database
from ca.store.programs_seen.tables import program_sightings
from shared.model.adoption.program_queue import Sighting, merge_sightings

# A machine that builds programs runs new ones without end; what was seen last is what somebody asks about.
MAX_PER_WORKLOAD: Final = 256
KEPT_S: Final = 30 * 86_400.0
_MAX_LISTED: Final = 5_000
_records: Final = msgspec.json.Decoder(Sighting)


class Sightings:
    """What was seen, by workload and program."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, sightings: Iterable[Sighting]) -> None:
        """Add to what is known; beyond ``MAX_PER_WORKLOAD`` those of a workload that were seen longest ago go."""
        table = program_sightings
        workloads = {}
        async with self._database.writing() as connection:
            for each in sorted(
                sightings, key=lambda sighting: sighting.key
            ):  # In one order: replicas mustn't deadlock.
                key = (
                    table.c.namespace == each.namespace,
                    table.c.service_account == each.service_account,
                    table.c.program == str(each.program),
                )
                known = await connection.scalar(select(table.c.record).where(*key))
                merged = merge_sightings(None if known is None else _records.decode(known), each)
                values = {
                    "namespace": each.namespace,
                    "service_account": each.service_account,
                    "program": str(each.program),
                    "last": merged.last,
                    "record": msgspec.json.encode(merged).decode(),
                }
                await connection.execute(self._database.upsert(table, values))
                if known is None:
                    workloads[each.namespace, each.service_account] = True
            for namespace, service_account in sorted(workloads):
                await _keep_newest(connection, namespace, service_account)

    async def list_all(self, namespace: str = "") -> list[Sighting]:
        """Return the sightings of a namespace, or of all, seen last first; at most 5,000."""
        query = select(program_sightings.c.record).order_by(program_sightings.c.last.desc()).limit(_MAX_LISTED)
        if namespace:
            query = query.where(program_sightings.c.namespace == namespace)
        async with self._database.reading() as connection:
            texts = list(await connection.scalars(query))
        return await asyncio.to_thread(lambda: [_records.decode(text) for text in texts])

    async def prune(self, *, now: float) -> int:
        """Forget what wasn't seen for ``KEPT_S``; return how many that were."""
        async with self._database.writing() as connection:
            gone = await connection.execute(delete(program_sightings).where(program_sightings.c.last < now - KEPT_S))
            return gone.rowcount


async def _keep_newest(connection: AsyncConnection, namespace: str, service_account: str) -> None:
    table = program_sightings
    is_meant = (table.c.namespace == namespace, table.c.service_account == service_account)
    count = await connection.scalar(select(func.count()).select_from(table).where(*is_meant))
    over = int(count or 0) - MAX_PER_WORKLOAD
    if over > 0:
        oldest = select(table.c.program).where(*is_meant).order_by(table.c.last, table.c.program).limit(over)
        programs = [(namespace, service_account, each) for each in await connection.scalars(oldest)]
        await connection.execute(
            delete(table).where(tuple_(table.c.namespace, table.c.service_account, table.c.program).in_(programs))
        )
