"""Forgets rows in portions, so that no writer waits long for one that prunes. I/O through ``Database``.

Belongs here: tables of which old rows are forgotten by one column. Doesn't: decisions and edges, which are forgotten
for their size, too (``ca/store/decision_log.py``, ``ca/store/edges/forgetting.py``).
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Column, Table, delete, select, tuple_

from ca.store.engine.database import Database

# A transaction keeps SQLite's other writers waiting.
PRUNED_AT_ONCE: Final = 1_000


async def delete_before(database: Database, table: Table, column: Column[float], before: float) -> int:
    """Delete rows whose column is less, the least first, at most ``PRUNED_AT_ONCE``; return how many.

    Call it again while it returns more than 0.

    Arguments:
        column: an index begins with it, else the search for the rows would take as long as the table is.
    """
    keys = list(table.primary_key)
    # Locked, where the database has such locks: a row that is renewed at this moment isn't an old one any more.
    old = select(*keys).where(column < before).order_by(column).limit(PRUNED_AT_ONCE).with_for_update(skip_locked=True)
    is_old = keys[0].in_(old) if len(keys) == 1 else tuple_(*keys).in_(old)
    async with database.writing() as connection:
        return (await connection.execute(delete(table).where(is_old))).rowcount
