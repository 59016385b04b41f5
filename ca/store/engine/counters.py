"""Counters that replicas look at to notice one another's changes. I/O through the given transaction."""

from __future__ import annotations

from typing import Final

from sqlalchemy import bindparam, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.store.engine.prepared import Prepared
from ca.store.engine.schema import counters


def _make_raise(statement: sqlite.Insert | postgresql.Insert) -> sqlite.Insert | postgresql.Insert:
    return statement.values(name=bindparam("name"), value=1).on_conflict_do_update(
        index_elements=[counters.c.name], set_={"value": counters.c.value + 1}
    )


_RAISE: Final = Prepared(_make_raise(sqlite.insert(counters)), _make_raise(postgresql.insert(counters)))


async def raise_counter(connection: AsyncConnection, name: str) -> None:
    """Raise a counter by 1. Its row is locked until the transaction ends: do it last where nothing depends on it."""
    await _RAISE.on(connection, name=name)


async def read_counter(connection: AsyncConnection, name: str) -> int:
    """Read a counter; 0 before it was ever raised."""
    return int(await connection.scalar(select(counters.c.value).where(counters.c.name == name)) or 0)
