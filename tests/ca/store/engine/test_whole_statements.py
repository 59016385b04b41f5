"""Statements are what they are through aiosqlite, in one call of the thread each."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from ca.store.engine.database import Database
from ca.store.engine.sqlite_threads import SqliteThreads
from ca.store.engine.whole_statements import AHEAD_ROWS, WholeStatements
from shared.model.errors import UnavailableError

COUNT_TO = text(
    "WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n < :last) SELECT n FROM counted"
)


@pytest.mark.parametrize("rows", [1, AHEAD_ROWS - 1, AHEAD_ROWS, AHEAD_ROWS + 1, 5 * AHEAD_ROWS])
async def test_all_rows_come_in_their_order_at_once_and_streamed(tmp_path: Path, rows: int) -> None:
    database = await Database.open(tmp_path)
    try:
        async with database.reading() as connection:
            expected = list(range(1, rows + 1))
            assert list(await connection.scalars(COUNT_TO, {"last": rows})) == expected
            result = await connection.stream(COUNT_TO, {"last": rows})
            assert [row.n async for page in result.partitions(AHEAD_ROWS - 10) for row in page] == expected
            # One that isn't read to its end gives way to the next, and to the end of its transaction.
            left = await connection.stream(COUNT_TO, {"last": rows})
            assert (await left.fetchone()) == (1,)
            await left.close()
            first = (await connection.execute(COUNT_TO, {"last": rows})).first()
            assert first == (1,)
        async with database.writing() as connection:
            await connection.execute(text("CREATE TABLE numbers (n INTEGER PRIMARY KEY)"))
    finally:
        await database.close()


async def test_changes_tell_how_many_rows_they_reached(tmp_path: Path) -> None:
    database = await Database.open(tmp_path)
    try:
        async with database.writing() as connection:
            await connection.execute(text("CREATE TABLE numbers (n INTEGER PRIMARY KEY)"))
            many = await connection.execute(text("INSERT INTO numbers VALUES (:n)"), [{"n": n} for n in range(10)])
            assert many.rowcount == 10
            assert (await connection.execute(text("DELETE FROM numbers WHERE n < 4"))).rowcount == 4
            assert (await connection.execute(text("UPDATE numbers SET n = n WHERE n > 100"))).rowcount == 0
            gone = await connection.execute(text("DELETE FROM numbers WHERE n < 6 RETURNING n"))
            assert sorted(gone.scalars()) == [4, 5]
        with pytest.raises(UnavailableError, match="UNIQUE"):
            async with database.writing() as connection:
                await connection.execute(text("INSERT INTO numbers VALUES (100)"))
                await connection.execute(text("INSERT INTO numbers VALUES (9)"))
        async with database.reading() as connection:
            assert list(await connection.scalars(text("SELECT n FROM numbers ORDER BY n"))) == [6, 7, 8, 9]
    finally:
        await database.close()


async def test_a_short_statement_takes_one_call_of_its_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Callable[..., object]] = []
    execute = WholeStatements._execute

    async def note(connection: WholeStatements, function: Callable[..., object], *arguments: Any) -> Any:
        calls.append(function)
        return await execute(connection, function, *arguments)  # type: ignore[no-untyped-call]

    database = await Database.open(tmp_path)
    try:
        async with database.reading() as connection:
            await connection.scalar(text("SELECT 1"))
            monkeypatch.setattr(WholeStatements, "_execute", note)
            assert await connection.scalar(text("SELECT 2")) == 2
            assert len(calls) == 1
            monkeypatch.undo()
    finally:
        await database.close()


async def test_a_statement_that_was_cancelled_leaves_nothing_open(tmp_path: Path) -> None:
    database = await Database.open(tmp_path)
    assert isinstance(database._threads, SqliteThreads)
    connection = await database._threads.connect(str(tmp_path / "touchmark.db"), lambda _: None)
    begins, goes_on = threading.Event(), threading.Event()

    def hold() -> int:
        begins.set()
        goes_on.wait()
        return 1

    await connection.create_function("hold", 0, hold)
    statement = await connection.cursor().__aenter__()
    executing = asyncio.create_task(statement.execute("SELECT hold()"))
    await asyncio.to_thread(begins.wait)
    executing.cancel()
    await asyncio.wait({executing})
    goes_on.set()
    await connection.close()
    await database.close()
    assert not [thread for thread in threading.enumerate() if "connection_worker" in thread.name]
