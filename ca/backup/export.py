"""The store's tables as a backup's content, of one snapshot, while the CA works on. I/O: reads the database.

Belongs here: what is read, and in which portions. Doesn't: what it looks like (``content.py``), encryption.

The same for SQLite and PostgreSQL, so that a backup of one can be restored into the other. ``pg_dump`` would need its
program in the image, of the server's version, and would tie a backup to PostgreSQL.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from sqlalchemy import Table, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.backup.content import End, Manifest, Rows, encode
from ca.store.engine.revisions import read_revision
from ca.store.engine.schema import metadata
from ca.store.store import Store
from ca.store.tables import decisions, replicas

ROWS_AT_ONCE: Final = 500
# Which replicas live is true of one moment only.
_LEFT_OUT: Final = frozenset({replicas.name})


def list_tables(*, with_left_out: bool = False) -> list[Table]:
    """Return the tables that a backup holds, or all, always in the same order."""
    # Each package of the store has added its own by now: the store knows them all.
    return [table for table in metadata.sorted_tables if with_left_out or table.name not in _LEFT_OUT]


async def export(store: Store, *, taken: float, with_decisions: bool = True) -> AsyncIterator[bytes]:
    """Yield the content of one snapshot. Holds ``ROWS_AT_ONCE`` rows.

    As long as it runs, SQLite's log of changes isn't emptied, and PostgreSQL keeps what was deleted: whoever takes this
    must have deadlines.

    Raises:
        UnavailableError: the database fails.
    """
    counts: dict[str, int] = {}
    async with store.database.reading() as connection:
        revision = await connection.run_sync(read_revision)
        yield encode(Manifest(revision=revision, trust_domain=store.trust_domain, taken=taken))
        for table in list_tables():
            name = str(table.name)  # A plain one, as msgpack takes it.
            counts[name] = 0
            if table is decisions and not with_decisions:
                continue
            async for rows in _read_table(connection, table):
                counts[name] += len(rows.rows)
                yield encode(rows)
    yield encode(End(counts=counts))


async def _read_table(connection: AsyncConnection, table: Table) -> AsyncIterator[Rows]:
    """Yield a table's rows by its primary key: an index that both stores have, and no cursor that must stay open."""
    keys = list(table.primary_key)
    names = tuple(str(column.name) for column in table.columns)
    query = select(table).order_by(*keys).limit(ROWS_AT_ONCE)
    places = [names.index(key.name) for key in keys]
    portion = query
    while True:
        rows = [list(row) for row in await connection.execute(portion)]
        if rows:
            yield Rows(table=str(table.name), columns=names, rows=rows)
        if len(rows) < ROWS_AT_ONCE:
            return
        last = [rows[-1][place] for place in places]
        portion = query.where(keys[0] > last[0] if len(keys) == 1 else tuple_(*keys) > tuple_(*last))


async def count_rows(connection: AsyncConnection, table: Table) -> int:
    """Return how many rows a table has."""
    return int(await connection.scalar(select(func.count()).select_from(table)) or 0)
