"""Counters that replicas look at to notice one another's changes. I/O through the given transaction."""

from __future__ import annotations

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.store.engine.database import Database
from ca.store.engine.schema import counters


async def raise_counter(database: Database, connection: AsyncConnection, name: str) -> None:
    """Raise a counter by 1. Its row is locked until the transaction ends: do it last where nothing depends on it."""
    await connection.execute(database.upsert(counters, {"name": name, "value": 0}, update=()))
    await connection.execute(update(counters).where(counters.c.name == name).values(value=counters.c.value + 1))


async def read_counter(connection: AsyncConnection, name: str) -> int:
    """Read a counter; 0 before it was ever raised."""
    return int(await connection.scalar(select(counters.c.value).where(counters.c.name == name)) or 0)
