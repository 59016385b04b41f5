"""A long answer is read page by page, in one transaction; on both databases."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select

from ca.store.engine.pages import paging
from ca.store.tables import settings
from tests.ca.founded import opened


async def test_pages_have_so_many_rows_and_the_rest_is_left(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        database = core.store.database
        async with database.writing() as connection:
            await connection.execute(settings.insert(), [{"name": f"test-{i}", "value": str(i)} for i in range(5)])
        query = select(settings.c.value).where(settings.c.name.startswith("test-")).order_by(settings.c.name)
        async with database.reading() as connection:
            async with paging(connection, query, at_once=2) as pages:
                found = [[row.value for row in page] async for page in pages]
            async with paging(connection, query, at_once=2) as pages:
                first = await anext(pages)
            assert await connection.scalar(query.limit(1)) == "0", "the connection is free again"
        assert found == [["0", "1"], ["2", "3"], ["4"]]
        assert [row.value for row in first] == ["0", "1"]
