"""SQLite statements that take one call of their connection's thread each. I/O.

aiosqlite makes a call for the cursor, the execution, the rows and the cursor's end: four changes of threads and back,
which take longer than most statements do. Belongs here: the cursor that SQLAlchemy is given instead. Doesn't: whole
transactions in one call (``Database.write_in_thread``).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Self, TypeVar

import aiosqlite

# Read with the statement; what goes beyond is read when it is asked for, so that a long result that is streamed isn't
# held as a whole. A row may have 64 KiB.
AHEAD_ROWS: Final = 64
_Row = tuple[Any, ...]
_T = TypeVar("_T")


class WholeStatements(aiosqlite.Connection):
    """A connection whose cursors are ``Statement``."""

    def cursor(self) -> Statement:  # type: ignore[override]
        """Return a cursor; no thread is asked for it."""
        return Statement(self)


class Statement:
    """A cursor as SQLAlchemy's adapter of aiosqlite uses it: executed once."""

    arraysize = 1

    def __init__(self, connection: WholeStatements) -> None:
        self.description: Sequence[_Row] | None = None
        self.rowcount = -1
        self.lastrowid: int | None = None
        self._connection = connection
        self._rows: list[_Row] = []
        self._open: sqlite3.Cursor | None = None  # While there may be more rows.

    async def __aenter__(self) -> Self:
        return self

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Self:
        """Execute a statement, and read its first rows."""
        return await self._run(lambda cursor: cursor.execute(sql, parameters))

    async def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> Self:
        """Execute a statement once for each of its parameters."""
        return await self._run(lambda cursor: cursor.executemany(sql, parameters))

    async def fetchone(self) -> _Row | None:
        """Return the next row; None: there is none."""
        rows = await self.fetchmany(1)
        return rows[0] if rows else None

    async def fetchmany(self, size: int | None = None) -> list[_Row]:
        """Return the next rows, at most so many."""
        size = self.arraysize if size is None else size
        if self._open is not None and len(self._rows) < size:
            self._rows += await self._call(self._open.fetchmany, size - len(self._rows))
        rows, self._rows = self._rows[:size], self._rows[size:]
        return rows

    async def fetchall(self) -> list[_Row]:
        """Return all rows that are left."""
        rows, self._rows = self._rows, []
        if self._open is not None:
            rows += await self._call(self._open.fetchall)
            await self.close()
        return rows

    async def close(self) -> None:
        """Finalise the statement, if there may be more rows."""
        self._rows = []
        if self._open is not None:
            ended, self._open = self._open, None
            await self._call(ended.close)

    async def _run(self, execute: Callable[[sqlite3.Cursor], object]) -> Self:
        cursor, is_read, self.description, self.rowcount, self.lastrowid, self._rows = await self._call(
            _execute, self._connection._conn, execute
        )
        self._open = None if is_read else cursor
        return self

    async def _call(self, function: Callable[..., _T], *arguments: Any) -> _T:
        result: _T = await self._connection._execute(function, *arguments)  # type: ignore[no-untyped-call]
        return result


def _execute(
    connection: sqlite3.Connection, execute: Callable[[sqlite3.Cursor], object]
) -> tuple[sqlite3.Cursor, bool, Sequence[_Row] | None, int, int | None, list[_Row]]:
    cursor = connection.cursor()
    try:
        execute(cursor)
        rows = [] if cursor.description is None else cursor.fetchmany(AHEAD_ROWS)
        outcome = (cursor.description, cursor.rowcount, cursor.lastrowid, rows)
    except BaseException:
        cursor.close()
        raise
    is_read = len(rows) < AHEAD_ROWS
    if is_read:
        cursor.close()
    return (cursor, is_read, *outcome)
