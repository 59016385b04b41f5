"""Several replicas on one database: their signs of life, and what each must look at to notice the others' changes. I/O.

Belongs here: the cheap questions. Doesn't: what a replica does with the answers (``ca/distribution/replica_sync.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from sqlalchemy import and_, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.store.engine.database import Database
from ca.store.tables import (
    BUNDLE_SEQUENCE,
    FOREIGN_CHANGES,
    NAMESPACE_CHANGES,
    REGISTRATIONS,
    counters,
    decisions,
    journal,
    replicas,
    sidecars,
)
from shared.model.errors import ConflictError

# A replica that hasn't written its sign of life for so long has ended, and its streams with it.
REPLICA_DEAD_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """How far each kind of change has come; each change raises one.

    Attributes:
        authorities: the journal's last entry: each change of an authority writes one.
        decisions: the last decision's ID.
    """

    bundle_sequence: int
    namespaces: int
    registrations: int
    authorities: int
    decisions: int
    foreign: int


class Replicas:
    """Which replicas there are, and what they have changed.

    Arguments:
        replica: this process's name among them; empty where it is alone.
    """

    def __init__(self, database: Database, *, replica: str) -> None:
        self._database = database
        self._replica = replica

    async def read_marks(self) -> Marks:
        """Read all marks in one snapshot."""
        async with self._database.reading() as connection:
            rows = await connection.execute(select(counters.c.name, counters.c.value))
            counts = {row.name: int(row.value) for row in rows}
            return Marks(
                bundle_sequence=counts.get(BUNDLE_SEQUENCE, 0),
                namespaces=counts.get(NAMESPACE_CHANGES, 0),
                registrations=counts.get(REGISTRATIONS, 0),
                authorities=int(await connection.scalar(select(func.max(journal.c.entry_id))) or 0),
                decisions=int(await connection.scalar(select(func.max(decisions.c.decision_id))) or 0),
                foreign=counts.get(FOREIGN_CHANGES, 0),
            )

    async def beat(self, open_streams: Collection[str] = ()) -> int:
        """Write this replica's sign of life; note that streams with replicas that have ended are closed.

        Arguments:
            open_streams: the instances whose stream with this replica is open: noted again, should another replica
                have taken this one for dead. Others that are noted as open with this one for ``REPLICA_DEAD_S`` are
                noted as closed: they ended meanwhile, or their end couldn't be noted.

        Returns:
            How many streams had ended with their replica.
        """
        async with self._database.writing() as connection:
            now = await self._database.read_clock(connection)
            await connection.execute(self._database.upsert(replicas, {"replica": self._replica, "seen": now}))
            await connection.execute(delete(replicas).where(replicas.c.seen < now - REPLICA_DEAD_S))
            closed = await connection.execute(
                update(sidecars)
                .where(sidecars.c.connected, sidecars.c.replica.not_in(select(replicas.c.replica)))
                .values(connected=False)
            )
            taken = select(sidecars.c.instance).where(~sidecars.c.connected, sidecars.c.replica == self._replica)
            for instance in [name for name in await connection.scalars(taken) if name in open_streams]:
                await connection.execute(update(sidecars).where(sidecars.c.instance == instance).values(connected=True))
            is_noted = and_(
                sidecars.c.connected,
                sidecars.c.replica == self._replica,
                sidecars.c.last_seen < now - REPLICA_DEAD_S,
            )
            noted = await connection.scalars(select(sidecars.c.instance).where(is_noted))
            for instance in [name for name in noted if name not in open_streams]:
                await connection.execute(
                    update(sidecars).where(sidecars.c.instance == instance, is_noted).values(connected=False)
                )
            return closed.rowcount

    async def measure_offset(self, *, clock: Callable[[], float]) -> float:
        """Return by how many seconds a clock is ahead of the database's; 0 where the time of asking explains it."""
        async with self._database.reading() as connection:
            began = clock()
            theirs = await self._database.read_clock(connection)
            ended = clock()
        return max(0.0, began - theirs) + min(0.0, ended - theirs)

    async def leave(self) -> None:
        """Take this replica's sign of life back, and note that its streams are closed."""
        async with self._database.writing() as connection:
            await connection.execute(delete(replicas).where(replicas.c.replica == self._replica))
            await connection.execute(
                update(sidecars).where(sidecars.c.replica == self._replica).values(connected=False)
            )

    async def list_alive(self) -> list[str]:
        """Return the replicas that are alive, by name."""
        async with self._database.reading() as connection:
            return list(await connection.scalars(select(replicas.c.replica).order_by(replicas.c.replica)))

    async def find_moved(self, instances: Collection[str]) -> list[str]:
        """Return those of this replica's sidecars whose stream is open with another replica by now."""
        if not instances:
            return []
        query = select(sidecars.c.instance).where(sidecars.c.connected, sidecars.c.replica != self._replica)
        async with self._database.reading() as connection:
            return [instance for instance in await connection.scalars(query) if instance in instances]


async def check_unused(database: Database, connection: AsyncConnection) -> None:
    """Check that no CA works on the database. Of SQLite the data directory's lock says it.

    Raises:
        ConflictError: one does, or was killed less than ``REPLICA_DEAD_S`` ago.
    """
    if database.is_sqlite:
        return
    since = await database.read_clock(connection) - REPLICA_DEAD_S
    if alive := await connection.scalar(select(func.max(replicas.c.replica)).where(replicas.c.seen > since)):
        raise ConflictError(
            f"a CA works on this database: {alive}",
            hint=f"stop every replica first; one that was killed counts for {REPLICA_DEAD_S:.0f} s",
        )
