"""One connection of PostgreSQL, kept for the transactions that come again and again. I/O.

Through SQLAlchemy a transaction of five statements takes eight: one connection is got from the pool, asked whether it
lives, and taken back, each step in a greenlet of its own. That was three quarters of what a certificate took. Here the
driver's own connection stays open, and knows its statements.

Belongs here: that one transaction after another has it, and that a broken one is replaced. Doesn't: what is written
(``ca/store/ledger.py``), or where the server is (``database.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol, TypeVar

from shared.model.errors import UnavailableError

CLOSE_S: Final = 5.0
# Whatever the server's default is: a statement after a lock has to see what was committed while it was waited for.
_BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED"
_T = TypeVar("_T")


class Driver(Protocol):
    """What is used of asyncpg's connection; its deadlines are those that it was opened with."""

    async def execute(self, query: str) -> str:
        """Execute a statement without parameters; return what the server says of it."""
        ...

    async def fetch(self, query: str, *parameters: Any) -> Sequence[Any]:
        """Execute a statement, prepared when it is executed first; return its rows."""
        ...

    async def close(self, *, timeout: float) -> None:
        """Take leave of the server, and close the connection within so many seconds."""
        ...

    def terminate(self) -> None:
        """Close the connection without a word; the server rolls back what isn't committed."""
        ...


class KeptConnection:
    """Runs transactions one after another.

    Arguments:
        connect: opens a connection.
        failures: what the driver raises where a connection is broken.
    """

    def __init__(self, connect: Callable[[], Awaitable[Driver]], *, failures: tuple[type[Exception], ...]) -> None:
        self._connect = connect
        self._failures = failures
        self._turn = asyncio.Lock()
        self._driver: Driver | None = None
        self._is_closed = False

    async def transact(self, work: Callable[[Driver], Awaitable[_T]]) -> _T:
        """Run a transaction, commit it, and return what it returns.

        Whatever goes wrong ends the connection, and with it the transaction: no other one finds its remains.

        Raises:
            UnavailableError: it is closed.
            Exception: what ``connect``, the driver or ``work`` raises.
        """
        async with self._turn:
            try:
                driver = await self._begin()
                result = await work(driver)
                if await driver.execute("COMMIT") != "COMMIT":
                    raise UnavailableError("the CA's store didn't commit")
            except BaseException:
                self._drop()
                raise
            return result

    async def close(self) -> None:
        """Take nothing more; what runs fails."""
        self._is_closed = True
        if self._turn.locked():
            self._drop()
        driver, self._driver = self._driver, None
        if driver is not None:
            with contextlib.suppress(*self._failures):
                await driver.close(timeout=CLOSE_S)  # Closed even where it fails.

    async def _begin(self) -> Driver:
        if self._driver is not None:
            try:
                await self._driver.execute(_BEGIN)
            except self._failures:
                self._drop()  # The server has been restarted since: nothing was asked of it yet.
            else:
                return self._driver
        if self._is_closed:
            raise UnavailableError("the CA's store is closed")
        self._driver = driver = await self._connect()
        if self._is_closed:  # Meanwhile: nobody else would end it.
            raise UnavailableError("the CA's store is closed")
        await driver.execute(_BEGIN)
        return driver

    def _drop(self) -> None:
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.terminate()
