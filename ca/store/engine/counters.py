"""Counters that replicas look at to notice one another's changes. I/O through the given transaction."""

from __future__ import annotations

from typing import Final

from sqlalchemy import bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.store.engine.prepared import Prepared, prepare_upsert
from ca.store.engine.schema import counters

_BEGIN: Final = prepare_upsert(counters, ("name", "value"), updated=())
_RAISE: Final = Prepared(
    update(counters).where(counters.c.name == bindparam("of_name")).values(value=counters.c.value + 1)
)


async def raise_counter(connection: AsyncConnection, name: str) -> None:
    """Raise a counter by 1. Its row is locked until the transaction ends: do it last where nothing depends on it."""
    await _BEGIN.on(connection, name=name, value=0)
    await _RAISE.on(connection, of_name=name)


async def read_counter(connection: AsyncConnection, name: str) -> int:
    """Read a counter; 0 before it was ever raised."""
    return int(await connection.scalar(select(counters.c.value).where(counters.c.name == name)) or 0)
