"""SQLite transactions that take one call of their connection's thread, and one commit for all that wait. I/O.

A change of threads and back takes longer than most statements do, and a busy event loop has to give the interpreter's
lock away each time. So a transaction's coroutine is run in the thread as a whole: its connection never waits, so that
one step brings it to its end. What waits meanwhile is run in one call, each part behind a savepoint of its own.

Belongs here: the thread, the queue and the savepoints. Doesn't: which transactions there are, or who writes when
(``database.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

import aiosqlite
from sqlalchemy import Connection, CursorResult, StaticPool, create_engine
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.model.errors import UnavailableError

# Of one call: whoever writes otherwise waits no longer than these take.
AT_ONCE: Final = 64
# After a long one for which short ones had to wait, these have the thread for so many times as long: so the long ones
# keep a tenth of it, however many there are of either. The rest is over when no short one has come for the second time.
REST: Final = 9.0
QUIET_S: Final = 0.02
MAX_REST_S: Final = 1.0
MAX_WAITING: Final = 20_000
_T = TypeVar("_T")
_Work = Callable[["InThread"], Any]
# Who waits: for what is run, and what is told of its result once that is committed.
_Waiting = OrderedDict[asyncio.Future[Any], tuple[_Work, Callable[[Any], None]]]


def _do_nothing(_: object) -> None:
    """Do nothing."""


class InThread(AsyncConnection):
    """The connection of a transaction that is run in SQLite's thread: what it is asked for is there at once."""

    __slots__ = ("_results", "_statements", "driver")

    def __init__(self, driver: sqlite3.Connection, statements: Connection) -> None:
        self.driver = driver
        self._statements = statements
        self._results: list[CursorResult[Any]] = []

    async def execute(self, statement: Any, parameters: Any = None, **options: Any) -> CursorResult[Any]:
        """Execute a statement."""
        return self._keep(self._statements.execute(statement, parameters, **options))

    async def exec_driver_sql(
        self, statement: str, parameters: Any = None, execution_options: Any = None
    ) -> CursorResult[Any]:
        """Execute a statement in the driver's words."""
        return self._keep(self._statements.exec_driver_sql(statement, parameters, execution_options))

    def _keep(self, result: CursorResult[Any]) -> CursorResult[Any]:
        self._results.append(result)
        return result

    def leave(self) -> None:
        """Leave the driver's connection, in its thread; closing it is its opener's part."""
        self._statements.close()

    def end(self) -> None:
        """Finalise the statements of one transaction: what isn't read to its end keeps its snapshot open."""
        for result in self._results:
            result.close()
        self._results.clear()


class WholeTransactions:
    """Two queues of transactions, of short ones and of long ones, in front of one connection.

    Arguments:
        connect: opens SQLite's connection.
        begin: the statement that begins a transaction.
        turn: is held meanwhile; None: nobody else is in the way.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[aiosqlite.Connection]], *, begin: str, turn: asyncio.Lock | None
    ) -> None:
        self._connect = connect
        self._begin = begin
        self._turn = turn
        self._connection: aiosqlite.Connection | None = None
        self._inside: InThread | None = None
        self._short: _Waiting = OrderedDict()
        self._long: _Waiting = OrderedDict()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False
        self._short_ended = self._long_ended = -math.inf
        self._rest_s = 0.0
        self._resting: asyncio.Future[None] | None = None  # Until short ones come, or the rest is over.

    @property
    def is_pressed(self) -> bool:
        """Whether short ones wait, or have come lately: a long one is to be cut short. May be asked in the thread."""
        return bool(self._short) or time.monotonic() < self._short_ended + QUIET_S

    async def run(
        self,
        work: Callable[[AsyncConnection], Coroutine[Any, Any, _T]],
        *,
        on_commit: Callable[[_T], None] = _do_nothing,
        is_long: bool = False,
    ) -> _T:
        """Run a transaction, and commit it.

        Once it has begun it goes on when its caller is cancelled.

        Arguments:
            work: is run inside the transaction; what it raises rolls it back. It may wait for nothing else.
            on_commit: is called with what it returned, also where the caller was cancelled meanwhile.
            is_long: it has a call of its own. Short ones go first, and after one for which they had to wait long ones
                rest while they come.
        """
        context = contextvars.copy_context()  # Who acts, for the audit log.
        waiting = self._long if is_long else self._short
        return await self._add(waiting, lambda inside: context.run(_drive, work, inside), on_commit)

    async def run_driver(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run a transaction on the driver's connection; otherwise as ``run``."""
        return await self._add(self._short, lambda inside: work(inside.driver), _do_nothing)

    async def close(self) -> None:
        """Take nothing more; what waits fails. The thread ends after what it works on."""
        self._is_closed = True
        self._wake()
        for waiting in (self._short, self._long):
            while waiting:
                done, _ = waiting.popitem(last=False)
                if not done.done():
                    done.set_exception(_closed())
        if self._connection is not None:
            self._connection._tx.put_nowait((None, self._leave))
            self._connection.stop()

    async def _add(self, waiting: _Waiting, work: _Work, on_commit: Callable[[_T], None]) -> _T:
        if self._is_closed:
            raise _closed()
        if len(waiting) >= MAX_WAITING:
            raise UnavailableError("the CA's store can't take more now", hint="try again in a moment")
        done: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        waiting[done] = work, on_commit
        if waiting is self._short:
            self._wake()
        if self._task is None:
            self._task = asyncio.create_task(self._drain(), name="store-transactions")
        try:
            return await done
        finally:
            waiting.pop(done, None)  # Who gives up before it begins keeps no room, and no batch in memory.

    async def _drain(self) -> None:
        try:
            while self._short or self._long:
                if self._short:
                    await self._take_turn(self._short, AT_ONCE)
                    self._short_ended = time.monotonic()
                if self._long and not await self._rest():
                    begun = time.monotonic()
                    await self._take_turn(self._long, 1)
                    self._long_ended = time.monotonic()
                    self._rest_s = min(MAX_REST_S, REST * (self._long_ended - begun)) if self._short else 0.0
        finally:
            self._task = None
            for waiting in (self._short, self._long):
                for done in waiting:
                    done.cancel()
                waiting.clear()

    async def _take_turn(self, waiting: _Waiting, at_once: int) -> None:
        async with contextlib.nullcontext() if self._turn is None else self._turn:
            await self._run_waiting(waiting, at_once)

    async def _rest(self) -> bool:
        """Wait until a long one may begin, or short ones come; return whether it still may not."""
        ends = min(self._long_ended + self._rest_s, self._short_ended + QUIET_S)
        left_s = ends - time.monotonic()
        if left_s <= 0:
            return False
        if not self._short and not self._is_closed:
            self._resting = asyncio.get_running_loop().create_future()
            timer = asyncio.get_running_loop().call_later(left_s, self._wake)
            try:
                await self._resting
            finally:
                timer.cancel()
                self._resting = None
        return True

    def _wake(self) -> None:
        if self._resting is not None and not self._resting.done():
            self._resting.set_result(None)

    async def _run_waiting(self, waiting: _Waiting, at_once: int) -> None:
        """Run what waits, as much as may at once. What its caller gave up before it began isn't run."""
        taken = [waiting.popitem(last=False) for _ in range(min(at_once, len(waiting)))]
        taken = [each for each in taken if not each[0].done()]
        if not taken:
            return
        try:
            if self._connection is None:
                self._connection = await self._open()
            outcomes: Sequence[tuple[Any, BaseException | None]] = await self._connection._execute(  # type: ignore[no-untyped-call]
                self._transact, self._connection._conn, [work for _, (work, _) in taken]
            )
        except asyncio.CancelledError:
            for done, _ in taken:
                done.cancel()
            raise
        except Exception as error:
            outcomes = [(None, error)] * len(taken)
        for (done, (_, on_commit)), (value, failure) in zip(taken, outcomes, strict=True):
            if failure is None:
                try:
                    on_commit(value)
                except Exception as error:
                    failure = error  # Of this caller alone: the others wait for their outcomes.
            if done.done():
                continue
            if failure is None:
                done.set_result(value)
            else:
                done.set_exception(failure)

    async def _open(self) -> aiosqlite.Connection:
        connection = await self._connect()
        if self._is_closed:  # Meanwhile: nobody else would end its thread.
            connection.stop()
            raise _closed()
        return connection

    def _leave(self) -> None:
        # Looked at in the thread: its first transaction may still run when the end is asked for.
        if self._inside is not None:
            self._inside.leave()

    def _transact(
        self, driver: sqlite3.Connection, works: Sequence[_Work]
    ) -> Sequence[tuple[Any, BaseException | None]]:
        if self._inside is None:
            engine = create_engine("sqlite://", creator=lambda: driver, poolclass=StaticPool)
            self._inside = InThread(driver, engine.connect())
        inside, alone = self._inside, len(works) == 1
        driver.execute(self._begin)
        outcomes: list[tuple[Any, BaseException | None]] = []
        try:
            for work in works:
                if not alone:
                    driver.execute("SAVEPOINT work")
                try:
                    value = work(inside)
                except Exception as error:
                    inside.end()
                    # SQLite itself rolls everything back where the disk is full or fails.
                    if alone or not driver.in_transaction:
                        raise
                    driver.execute("ROLLBACK TO work")
                    outcomes.append((None, error))
                else:
                    inside.end()
                    outcomes.append((value, None))
                if not alone:
                    driver.execute("RELEASE work")
            driver.execute("COMMIT")
        except BaseException:
            if driver.in_transaction:
                driver.rollback()
            raise
        return outcomes


def _drive(work: Callable[[AsyncConnection], Coroutine[Any, Any, _T]], connection: InThread) -> _T:
    transaction = work(connection)
    try:
        transaction.send(None)
    except StopIteration as end:
        result: _T = end.value
        return result
    transaction.close()
    raise RuntimeError("a transaction waits for something that isn't its database")


def _closed() -> UnavailableError:
    return UnavailableError("the CA's store is closed")
