"""Reads an answer of thousands of rows page by page, within one transaction. I/O through the given connection.

Read as a whole its rows would keep SQLite's thread and then the event loop for as long as there are rows. Belongs here:
the pages. Doesn't: what is asked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncConnection


@asynccontextmanager
async def paging(
    connection: AsyncConnection, query: Select[Any], *, at_once: int
) -> AsyncIterator[AsyncIterator[Sequence[Any]]]:
    """Give a query's rows in pages of so many. What wasn't read is left when the block ends."""
    result = await connection.stream(query)
    try:
        yield result.partitions(at_once)
    finally:
        await result.close()
