"""Transactions in SQLite's thread: each whole or not there, many in one commit, none lost with its caller."""

from __future__ import annotations

import asyncio
import contextvars
import sqlite3
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import aiosqlite
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.store.engine import whole_transactions
from ca.store.engine.database import Database
from ca.store.engine.whole_transactions import AT_ONCE, WholeTransactions
from shared.model.errors import InputError, UnavailableError


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await Database.open(tmp_path)
    async with opened.writing() as connection:
        await connection.execute(text("CREATE TABLE numbers(n INTEGER PRIMARY KEY)"))
    yield opened
    await opened.close()


async def add(connection: AsyncConnection, number: int) -> int:
    await connection.execute(text("INSERT INTO numbers VALUES (:n)"), {"n": number})
    return number


async def add_and_refuse(connection: AsyncConnection, number: int) -> None:
    await add(connection, number)
    raise InputError("no")


async def list_numbers(connection: AsyncConnection) -> list[int]:
    return list(await connection.scalars(text("SELECT n FROM numbers ORDER BY n")))


class Busy:
    """Keeps the writer's thread until it is told to go on: what comes meanwhile waits, and is run together."""

    def __init__(self, database: Database) -> None:
        self._begins, self._goes_on = threading.Event(), threading.Event()
        self._task = asyncio.create_task(database.write_in_thread(self._wait))

    async def begin(self) -> None:
        await asyncio.to_thread(self._begins.wait)

    async def end(self) -> None:
        self._goes_on.set()
        await self._task

    def _wait(self, _: sqlite3.Connection) -> None:
        self._begins.set()
        self._goes_on.wait()


async def test_of_many_in_one_commit_each_is_whole_or_not_there_and_learns_its_own_outcome(database: Database) -> None:
    begun: list[str] = []

    def note(statement: str) -> None:
        begun.append(statement.split()[0])

    await database.write_in_thread(lambda driver: driver.set_trace_callback(note))
    begun.clear()
    busy = Busy(database)
    await busy.begin()
    first = asyncio.create_task(database.write(lambda connection: add(connection, 1)))
    refused = asyncio.create_task(database.write(lambda connection: add_and_refuse(connection, 2)))
    twice = asyncio.create_task(database.write(lambda connection: add(connection, 1)))
    last = asyncio.create_task(database.write(lambda connection: add(connection, 3)))
    await asyncio.sleep(0)
    await busy.end()
    outcomes = await asyncio.gather(first, refused, twice, last, return_exceptions=True)
    assert (outcomes[0], outcomes[3]) == (1, 3)
    assert isinstance(outcomes[1], InputError)
    assert isinstance(outcomes[2], UnavailableError) and "UNIQUE" in outcomes[2].message
    assert begun.count("COMMIT") == 2  # The busy one's, and one for all four.
    assert await database.read(list_numbers) == [1, 3]


async def test_a_transaction_that_fails_as_a_whole_fails_all_that_share_it(database: Database) -> None:
    async def lose_the_transaction(connection: AsyncConnection) -> None:
        await connection.exec_driver_sql("ROLLBACK")  # As SQLite itself does on a full disk.
        raise InputError("lost")

    busy = Busy(database)
    await busy.begin()
    tasks = [
        asyncio.create_task(database.write(lambda connection: add(connection, 1))),
        asyncio.create_task(database.write(lose_the_transaction)),
        asyncio.create_task(database.write(lambda connection: add(connection, 2))),
    ]
    await asyncio.sleep(0)
    await busy.end()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, InputError) for outcome in outcomes)
    assert await database.read(list_numbers) == []
    assert await database.write(lambda connection: add(connection, 4)) == 4


async def test_who_gives_up_before_it_begins_writes_nothing_and_afterwards_its_commit_is_told(
    database: Database,
) -> None:
    committed: list[int] = []
    begins, goes_on = threading.Event(), threading.Event()

    async def add_slowly(connection: AsyncConnection) -> int:
        begins.set()
        goes_on.wait()
        return await add(connection, 2)

    busy = Busy(database)
    await busy.begin()
    given_up = asyncio.create_task(database.write(lambda connection: add(connection, 1), on_commit=committed.append))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.wait({given_up})
    await busy.end()
    begun = asyncio.create_task(database.write(add_slowly, on_commit=committed.append))
    await asyncio.to_thread(begins.wait)
    begun.cancel()
    await asyncio.wait({begun})
    goes_on.set()
    assert await database.write(list_numbers) == [2]
    assert committed == [2]


async def test_a_transaction_acts_for_its_caller_and_waits_for_nothing_but_its_database(database: Database) -> None:
    acting = contextvars.ContextVar("acting", default="nobody")
    acting.set("somebody")

    async def tell(_: AsyncConnection) -> str:
        return acting.get()

    async def wait(connection: AsyncConnection) -> None:
        await add(connection, 1)
        await asyncio.sleep(0)

    assert await database.write(tell) == "somebody"
    with pytest.raises(RuntimeError, match="waits for something"):
        await database.write(wait)
    assert await database.read(list_numbers) == []


async def test_a_result_that_wasnt_read_keeps_no_snapshot(database: Database) -> None:
    for number in range(3):
        await database.write(lambda connection, number=number: add(connection, number))  # type: ignore[misc]
    kept: list[object] = []

    async def look(connection: AsyncConnection) -> None:
        kept.append(await connection.execute(text("SELECT n FROM numbers")))

    await database.read(look)
    await database.write(lambda connection: add(connection, 3))
    assert await database.read(list_numbers) == [0, 1, 2, 3]


async def test_a_closed_database_refuses_and_fails_what_waits(tmp_path: Path) -> None:
    database = await Database.open(tmp_path)
    busy = Busy(database)
    await busy.begin()
    waiting = asyncio.create_task(database.write(list_numbers))
    await asyncio.sleep(0)
    closing = asyncio.create_task(database.close())
    with pytest.raises(UnavailableError, match="closed"):
        await waiting
    await busy.end()
    await closing
    with pytest.raises(UnavailableError, match="closed"):
        await database.read(list_numbers)


async def test_who_fails_after_the_commit_leaves_the_others_their_outcomes(database: Database) -> None:
    def fail(_: object) -> None:
        raise ValueError("a listener's fault")

    busy = Busy(database)
    await busy.begin()
    failing = asyncio.create_task(database.write(lambda connection: add(connection, 1), on_commit=fail))
    # More than one call takes, so that some wait for the next.
    others = [
        asyncio.create_task(database.write(lambda connection, number=number: add(connection, number)))  # type: ignore[misc]
        for number in range(2, AT_ONCE + 3)
    ]
    await asyncio.sleep(0)
    await busy.end()
    assert await asyncio.gather(*others) == list(range(2, AT_ONCE + 3))
    with pytest.raises(ValueError, match="listener"):
        await failing


async def test_a_connection_that_opens_while_the_database_is_closed_is_ended() -> None:
    opening, goes_on = asyncio.Event(), asyncio.Event()
    opened: list[aiosqlite.Connection] = []

    async def connect() -> aiosqlite.Connection:
        opening.set()
        await goes_on.wait()
        opened.append(await aiosqlite.connect(":memory:"))
        return opened[0]

    transactions = WholeTransactions(connect, begin="BEGIN", turn=None)
    waiting = asyncio.create_task(transactions.run(list_numbers))
    await opening.wait()
    await transactions.close()
    goes_on.set()
    with pytest.raises(UnavailableError, match="closed"):
        await waiting
    await asyncio.to_thread(opened[0]._thread.join)


async def test_short_ones_are_run_between_two_long_ones(database: Database) -> None:
    ran: list[str] = []
    begins, goes_on = threading.Event(), threading.Event()

    async def note(_: AsyncConnection, *, name: str) -> None:
        ran.append(name)

    async def take_long(_: AsyncConnection) -> None:
        begins.set()
        goes_on.wait()
        ran.append("long")

    first = asyncio.create_task(database.write(take_long, is_long=True))
    others = [
        asyncio.create_task(database.write(partial(note, name=name), is_long=True)) for name in ("another", "last")
    ]
    await asyncio.to_thread(begins.wait)
    others.append(asyncio.create_task(database.write(partial(note, name="short"))))
    await asyncio.sleep(0)
    goes_on.set()
    await asyncio.gather(first, *others)
    assert ran == ["long", "short", "another", "last"]


async def test_a_long_one_rests_while_short_ones_come_if_they_had_to_wait(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock of the test's own: nine times as long as it took. Hours, so that no timer of the event loop ends."""

    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    ran: list[str] = []
    begins, goes_on = threading.Event(), threading.Event()

    async def note(_: AsyncConnection, *, name: str) -> None:
        ran.append(name)

    async def take_two_thousand_seconds(_: AsyncConnection) -> None:
        begins.set()
        goes_on.wait()
        clock.now += 2_000
        ran.append("long")

    def is_pressed() -> bool:
        return database.is_pressed

    def write(name: str, *, is_long: bool = False) -> asyncio.Task[None]:
        return asyncio.create_task(database.write(partial(note, name=name), is_long=is_long))

    monkeypatch.setattr(whole_transactions, "time", clock)
    monkeypatch.setattr(whole_transactions, "QUIET_S", 15_000.0)
    monkeypatch.setattr(whole_transactions, "MAX_REST_S", 100_000.0)
    first = asyncio.create_task(database.write(take_two_thousand_seconds, is_long=True))
    await asyncio.to_thread(begins.wait)
    assert not is_pressed()
    waiting = write("another", is_long=True)
    short = write("a")
    await asyncio.sleep(0)
    assert is_pressed()
    goes_on.set()
    await asyncio.gather(first, short)
    for clock.now, name in ((10_000.0, "b"), (19_000.0, "c")):
        await write(name)
    assert ran == ["long", "a", "b", "c"] and not waiting.done()
    clock.now = 20_000.0  # The rest is over.
    await asyncio.gather(write("d"), waiting)
    assert ran == ["long", "a", "b", "c", "d", "another"]
    assert is_pressed()
    clock.now += 15_000
    assert not is_pressed()
    # Nobody had to wait for that one: the next needn't rest, nor does a closed database wait for it.
    await write("last", is_long=True)
    assert ran[-1] == "last"


@pytest.mark.parametrize("is_long", [False, True])
async def test_who_gives_up_before_it_begins_keeps_no_room(
    database: Database, monkeypatch: pytest.MonkeyPatch, is_long: bool
) -> None:
    monkeypatch.setattr(whole_transactions, "MAX_WAITING", 1)
    async with database.writing():
        given_up = asyncio.create_task(database.write(lambda connection: add(connection, 1), is_long=is_long))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.wait({given_up})
        waiting = asyncio.create_task(database.write(lambda connection: add(connection, 2), is_long=is_long))
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError, match="more"):
            await database.write(lambda connection: add(connection, 3), is_long=is_long)
    assert await waiting == 2
    assert await database.read(list_numbers) == [2]


async def test_an_end_before_the_first_transaction_leaves_the_connection_in_its_thread() -> None:
    is_open, goes_on = asyncio.Event(), threading.Event()
    opened: list[aiosqlite.Connection] = []
    busy: list[asyncio.Task[object]] = []

    async def connect() -> aiosqlite.Connection:
        connection = await aiosqlite.connect(":memory:")
        opened.append(connection)
        busy.append(asyncio.create_task(connection._execute(goes_on.wait)))  # type: ignore[no-untyped-call]
        await asyncio.sleep(0)
        is_open.set()
        return connection

    async def do_nothing(_: AsyncConnection) -> None:
        """Change nothing."""

    transactions = WholeTransactions(connect, begin="BEGIN", turn=None)
    waiting = asyncio.create_task(transactions.run(do_nothing))
    await is_open.wait()
    await transactions.close()
    goes_on.set()
    await asyncio.gather(waiting, *busy)
    await asyncio.to_thread(opened[0]._thread.join)
    assert transactions._inside is not None
    assert transactions._inside._statements.closed
