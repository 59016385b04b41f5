"""Counters: raised by one, each by itself."""

from __future__ import annotations

from pathlib import Path

from ca.store.engine.counters import raise_counter, read_counter
from tests.ca.founded import opened


async def test_a_counter_begins_at_0_and_is_raised_by_1(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        database = core.store.database
        async with database.writing() as connection:
            assert await read_counter(connection, "mine") == 0
            for _ in range(3):
                await raise_counter(connection, "mine")
            await raise_counter(connection, "other")
        async with database.reading() as connection:
            assert [await read_counter(connection, name) for name in ("mine", "other")] == [3, 1]
