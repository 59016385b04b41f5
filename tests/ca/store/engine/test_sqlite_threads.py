"""Whatever was cancelled, no thread outlives the database: its answer would meet an event loop that is gone."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from ca.store.engine.database import Database
from ca.store.engine.sqlite_threads import RollingBack

# About a second of work in SQLite itself.
SLOW_QUERY = text(
    "WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n < 4000000)"
    " SELECT max(n) FROM counted"
)


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "connection_worker" in thread.name]


@pytest.mark.parametrize("times", [1, 2])
async def test_a_query_that_was_cancelled_is_waited_for(tmp_path: Path, times: int) -> None:
    database = await Database.open(tmp_path)
    begins = asyncio.Event()

    async def read() -> None:
        async with database.reading() as connection:
            begins.set()
            await connection.execute(SLOW_QUERY)

    reading = asyncio.create_task(read())
    await begins.wait()
    for _ in range(times):  # The second time, nobody waits any longer for the connection's end.
        await asyncio.sleep(0.05)
        reading.cancel()
    await asyncio.wait({reading})
    await database.close()
    assert workers() == []


async def test_a_transaction_that_was_cancelled_is_waited_for_and_whole(tmp_path: Path) -> None:
    """The next one of its connection comes after it, and a writer of the pool has its turn."""
    database = await Database.open(tmp_path)
    begins, goes_on = threading.Event(), threading.Event()

    def fill(driver: sqlite3.Connection) -> None:
        driver.execute("CREATE TABLE numbers(n)")
        driver.execute("INSERT INTO numbers VALUES (1)")
        begins.set()
        goes_on.wait()
        driver.execute("INSERT INTO numbers VALUES (2)")

    filling = asyncio.create_task(database.write_in_thread(fill))
    await asyncio.to_thread(begins.wait)
    filling.cancel()
    await asyncio.wait({filling})
    goes_on.set()

    def count(driver: sqlite3.Connection) -> int:
        (found,) = driver.execute("SELECT count(*) FROM numbers").fetchone()
        return int(found)

    assert await database.write_in_thread(count) == 2
    async with database.writing() as connection:
        await connection.execute(text("INSERT INTO numbers VALUES (3)"))
    assert await database.write_in_thread(count) == 3
    await database.close()
    assert workers() == []


async def test_a_closed_database_waits_for_a_transaction_that_was_cancelled(tmp_path: Path) -> None:
    database = await Database.open(tmp_path)
    begins = threading.Event()

    def count_slowly(driver: sqlite3.Connection) -> None:
        begins.set()
        driver.execute(str(SLOW_QUERY)).fetchone()

    counting = asyncio.create_task(database.write_in_thread(count_slowly))
    await asyncio.to_thread(begins.wait)
    counting.cancel()
    await asyncio.wait({counting})
    await database.close()
    assert workers() == []


async def test_a_connection_that_was_cancelled_while_it_opened_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = await Database.open(tmp_path)
    begins = threading.Event()

    def connect_slowly(*_: Any, **__: Any) -> sqlite3.Connection:
        begins.set()
        time.sleep(0.5)
        raise sqlite3.OperationalError("too late")

    async def read() -> None:
        async with database.reading():
            pass

    async with database.reading():  # The pool's only connection is in use.
        monkeypatch.setattr(sqlite3, "connect", connect_slowly)
        reading = asyncio.create_task(read())
        await asyncio.to_thread(begins.wait)
        reading.cancel()
        await asyncio.wait({reading})
    await database.close()
    assert workers() == []


@pytest.mark.parametrize(("kind", "is_free"), [(RollingBack, True), (sqlite3.Connection, False)])
def test_a_closed_connection_keeps_no_lock_by_a_cursor_that_still_lives(
    tmp_path: Path, kind: type[sqlite3.Connection], is_free: bool
) -> None:
    """A successor said that the database is locked, once in some hundred cancelled transactions."""
    first = sqlite3.connect(tmp_path / "db", factory=kind, isolation_level=None)
    first.execute("CREATE TABLE numbers(n)")
    first.execute("BEGIN IMMEDIATE")
    first.execute("INSERT INTO numbers VALUES (1), (2), (3)")
    cursor = first.execute("SELECT n FROM numbers")
    cursor.fetchone()
    first.close()
    is_locked = contextlib.nullcontext() if is_free else pytest.raises(sqlite3.OperationalError, match="locked")
    with contextlib.closing(sqlite3.connect(tmp_path / "db", timeout=0, isolation_level=None)) as second, is_locked:
        second.execute("BEGIN IMMEDIATE")
    del cursor
