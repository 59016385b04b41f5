"""Programs that sidecars have seen, in the store, bounded for each workload. I/O.

Belongs here: the rows. Doesn't: what sidecars may say (``ca/observation/programs_seen.py``), or what waits for an
answer (``shared/model/adoption/program_queue.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from sqlalchemy import and_, delete, false, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.store.engine.database import Database
from ca.store.engine.pages import paging
from ca.store.engine.pruning import delete_before
from ca.store.programs_seen.tables import program_sightings
from shared.model.adoption.program_queue import Sighting, merge_sightings
from shared.model.identity.program import Program

# A machine that builds programs runs new ones without end; what was seen last is what somebody asks about.
MAX_PER_WORKLOAD: Final = 256
# In one question: what is told of one may be 200 KiB.
MAX_ASKED: Final = 100
# A transaction keeps all other writers waiting.
MAX_PER_WRITE: Final = 100
KEPT_S: Final = 30 * 86_400.0
MAX_LISTED: Final = 5_000
MAX_READ: Final = 20_000
MAX_CODE_LISTED: Final = 16 * 1024 * 1024
MAX_CODE_PER_WORKLOAD: Final = 1024 * 1024
_PAGE: Final = 200
_records: Final = msgspec.json.Decoder(Sighting)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedSightings:
    """Sightings, seen last first.

    Attributes:
        is_truncated: there are more.
    """

    sightings: tuple[Sighting, ...]
    is_truncated: bool


class Sightings:
    """What was seen, by workload and program."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, sightings: Iterable[Sighting]) -> None:
        """Add to what is known; beyond ``MAX_PER_WORKLOAD`` those of a workload that were seen longest ago go.

        Arguments:
            sightings: of different programs, at most ``MAX_PER_WRITE`` or other writers wait too long.
        """
        table = program_sightings
        new = {(each.namespace, each.service_account, str(each.program)): each for each in sightings}
        if not new:
            return
        async with self._database.writing() as connection:
            known: dict[tuple[str, str, str], Sighting] = {}
            # One workload after another: SQLite looks for a list of keys of several columns by reading the table.
            for workload in sorted({each[:2] for each in new}):
                query = select(table.c.program, table.c.record).where(
                    table.c.namespace == workload[0],
                    table.c.service_account == workload[1],
                    table.c.program.in_([each[2] for each in new if each[:2] == workload]),
                )
                rows = await connection.execute(query)
                known.update({(*workload, row.program): _records.decode(row.record) for row in rows})
            values = []
            for each in sorted(new):  # In one order: replicas mustn't deadlock.
                merged = merge_sightings(known.get(each), new[each])
                values.append(
                    {
                        "namespace": each[0],
                        "service_account": each[1],
                        "program": each[2],
                        "last": merged.last,
                        "record": msgspec.json.encode(merged).decode(),
                    }
                )
            await connection.execute(self._database.upsert(table, values[0]), values)
            await _keep_newest(connection, {each[:2] for each in new if each not in known})

    async def list_all(self, namespace: str = "") -> list[Sighting]:
        """Return the sightings of a namespace, or of all, seen last first; at most 5,000."""
        return list((await self.list_newest(namespace)).sightings)

    async def list_newest(
        self, namespace: str = "", *, answered: Collection[tuple[str, str, Program]] = frozenset()
    ) -> ListedSightings:
        """Return the sightings of a namespace, or of all, seen last first, until ``MAX_LISTED`` wait for an answer.

        Loaded code is left out (not known) of those that were answered, and of a workload's beyond a bound of bytes.

        Arguments:
            answered: programs that somebody approved or refused: returned as well, but take no place.
        """
        query = select(program_sightings.c.record).order_by(program_sightings.c.last.desc()).limit(MAX_READ + 1)
        if namespace:
            query = query.where(program_sightings.c.namespace == namespace)
        reading = _Reading(answered)
        async with self._database.reading() as connection, paging(connection, query, at_once=_PAGE) as pages:
            async for page in pages:
                await asyncio.to_thread(reading.take, [row[0] for row in page])
                if reading.is_truncated:
                    break
        return ListedSightings(sightings=tuple(reading.sightings), is_truncated=reading.is_truncated)

    async def list_of(self, namespace: str, programs: Collection[tuple[str, Program]]) -> list[Sighting]:
        """Return what was seen of these programs, each with its service account, whole.

        Arguments:
            programs: at most ``MAX_ASKED``.
        """
        assert len(programs) <= MAX_ASKED
        columns, wanted = program_sightings.c, dict[str, list[str]]()
        for service_account, program in sorted((account, str(program)) for account, program in programs):
            wanted.setdefault(service_account, []).append(program)
        # Each with its whole key: SQLite looks for a list of keys of several columns by reading the table.
        are_meant = [
            and_(columns.namespace == namespace, columns.service_account == account, columns.program.in_(names))
            for account, names in wanted.items()
        ]
        async with self._database.reading() as connection:
            found = list(await connection.scalars(select(columns.record).where(or_(false(), *are_meant))))
        return await asyncio.to_thread(lambda: [_records.decode(each) for each in found])

    async def prune(self, *, now: float) -> int:
        """Forget some of what wasn't seen for ``KEPT_S``; return how many: call again while it's more than 0."""
        return await delete_before(self._database, program_sightings, program_sightings.c.last, now - KEPT_S)


class _Reading:
    """What was read so far."""

    def __init__(self, answered: Collection[tuple[str, str, Program]]) -> None:
        self.sightings: list[Sighting] = []
        self.is_truncated = False
        self._answered = answered
        self._waiting = 0
        self._total = 0
        self._used: dict[str, int] = {}  # Bytes of records with loaded code, by workload.

    def take(self, texts: Sequence[str]) -> None:
        """Read a page's records."""
        for text in texts:
            sighting = _records.decode(text)
            is_answered = sighting.key in self._answered
            if len(self.sightings) >= MAX_READ or (not is_answered and self._waiting >= MAX_LISTED):
                self.is_truncated = True
                return
            self._waiting += not is_answered
            self.sightings.append(self._bound_code(sighting, len(text), is_answered=is_answered))

    def _bound_code(self, sighting: Sighting, size: int, *, is_answered: bool) -> Sighting:
        if sighting.code is not None:  # Times are for adding up alone.
            sighting = msgspec.structs.replace(sighting, told=(), anonymous_told=0, omitted_told=0)
        if sighting.code is None:
            return sighting
        used = self._used.get(sighting.workload, 0) + size
        if is_answered or used > MAX_CODE_PER_WORKLOAD or self._total + size > MAX_CODE_LISTED:
            return msgspec.structs.replace(sighting, code=None)
        self._used[sighting.workload] = used
        self._total += size
        return sighting


async def _keep_newest(connection: AsyncConnection, workloads: Collection[tuple[str, str]]) -> None:
    table = program_sightings
    for namespace, service_account in sorted(workloads):
        is_meant = (table.c.namespace == namespace, table.c.service_account == service_account)
        count = int(await connection.scalar(select(func.count()).where(*is_meant)) or 0)
        over = count - MAX_PER_WORKLOAD
        if over <= 0:
            continue
        oldest = select(table.c.program).where(*is_meant).order_by(table.c.last, table.c.program).limit(over)
        programs = list(await connection.scalars(oldest))
        await connection.execute(delete(table).where(*is_meant, table.c.program.in_(programs)))
