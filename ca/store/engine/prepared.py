"""Statements that are written once, with names for what varies. I/O through the given connection.

SQLAlchemy takes longer to build a statement, look its text up and wrap its rows than SQLite does for a row by its key:
a sidecar that comes back takes twenty of them. In SQLite's thread a prepared one goes to the driver as it is.

Belongs here: those that each sidecar's joining, resuming and leaving take, and each batch of its decisions. Doesn't:
searches, whose conditions vary.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

from sqlalchemy import BindParameter, ColumnElement, Executable, Table, bindparam, insert, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.store.engine.upsert import make_upsert
from ca.store.engine.whole_transactions import InThread

_SQLITE: Final = sqlite.dialect()


class Rows:
    """What a statement has returned, read to its end.

    Attributes:
        rowcount: how many rows it changed.
    """

    def __init__(self, rows: Sequence[Any], rowcount: int) -> None:
        self._rows = rows
        self.rowcount = rowcount

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    def first(self) -> Any:
        """Return the first row; None: there is none."""
        return self._rows[0] if self._rows else None

    def scalar(self) -> Any:
        """Return the first row's first column; None: there is no row."""
        return self._rows[0][0] if self._rows else None


class Prepared:
    """One statement; what varies is a ``bindparam``.

    Arguments:
        statement: for any database, or for SQLite.
        elsewhere: for PostgreSQL, where it differs.
    """

    def __init__(self, statement: Executable, elsewhere: Executable | None = None) -> None:
        self._statement = statement
        self._elsewhere = statement if elsewhere is None else elsewhere

    async def on(self, connection: AsyncConnection, **values: Any) -> Rows:
        """Execute it within a transaction."""
        if isinstance(connection, InThread):
            return self._in_thread.execute(connection, values)
        is_sqlite = connection.dialect.name == _SQLITE.name
        result = await connection.execute(self._statement if is_sqlite else self._elsewhere, values)
        return Rows(result.all() if result.returns_rows else (), result.rowcount)

    async def on_each(self, connection: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Execute it once for each of these values, at least one; what it returns isn't read."""
        if isinstance(connection, InThread):
            self._in_thread.execute_many(connection, rows)
            return
        is_sqlite = connection.dialect.name == _SQLITE.name
        await connection.execute(self._statement if is_sqlite else self._elsewhere, rows)

    @cached_property
    def _in_thread(self) -> _Compiled:
        return _Compiled(self._statement)


def prepare_insert(table: Table) -> Prepared:
    """Prepare the insertion of a whole row; its parameters are the columns' names."""
    return Prepared(insert(table).values({column.name: bindparam(column.name) for column in table.c}))


def prepare_update(
    table: Table, names: Sequence[str], *conditions: ColumnElement[bool], returns: bool = False
) -> Prepared:
    """Prepare a change of columns; its parameters are their names, and what the conditions name otherwise.

    Arguments:
        returns: it returns the rows as they are then, whole, instead of how many it changed.
    """
    statement = update(table).where(*conditions).values({name: bindparam(name) for name in names})
    return Prepared(statement.returning(*table.c) if returns else statement)


def prepare_upsert(table: Table, names: Sequence[str], *, updated: Sequence[str] | None = None) -> Prepared:
    """Prepare an insertion that updates the row of the same key; its parameters are the columns' names.

    Arguments:
        names: of the columns.
        updated: as ``update`` of ``Database.upsert``.
    """
    values: Mapping[str, BindParameter[Any]] = {name: bindparam(name) for name in names}
    return Prepared(
        make_upsert(sqlite.insert, table, values, update=updated),
        make_upsert(postgresql.insert, table, values, update=updated),
    )


class _Compiled:
    """A statement as SQLite's driver takes it, and what its rows become."""

    def __init__(self, statement: Executable) -> None:
        compiled: Any = statement.compile(dialect=_SQLITE)  # type: ignore[attr-defined]
        self._text = str(compiled)
        binds = [(name, compiled.binds[name]) for name in compiled.positiontup or ()]
        # Each with its name, whether it varies, and its value where it doesn't.
        self._parameters = [
            (name, bind.required, None if bind.required else bind.effective_value) for name, bind in binds
        ]
        columns = compiled._result_columns
        self._make_row: Callable[..., Any] | None = None
        self._processors: list[tuple[int, Callable[[Any], Any]]] = []
        if columns:
            names = [column.keyname for column in columns]
            row: Any = namedtuple("Row", names, rename=True)  # type: ignore[misc]  # Of whatever the statement says.
            self._make_row = row._make
            processors = [column.type._cached_result_processor(_SQLITE, None) for column in columns]
            self._processors = [(place, each) for place, each in enumerate(processors) if each is not None]

    def execute(self, connection: InThread, values: Mapping[str, Any]) -> Rows:
        """Execute it in the thread."""
        parameters = [values[name] if varies else fixed for name, varies, fixed in self._parameters]
        cursor = connection.driver.execute(self._text, parameters)
        if self._make_row is None:
            return Rows((), cursor.rowcount)
        return Rows([self._make_row(self._process(row)) for row in cursor.fetchall()], -1)

    def execute_many(self, connection: InThread, rows: Sequence[Mapping[str, Any]]) -> None:
        """Execute it in the thread once for each of these."""
        connection.driver.executemany(
            self._text, [[row[name] if varies else fixed for name, varies, fixed in self._parameters] for row in rows]
        )

    def _process(self, row: tuple[Any, ...]) -> Sequence[Any]:
        if not self._processors:
            return row
        processed = list(row)
        for place, process in self._processors:
            processed[place] = process(processed[place])
        return processed
