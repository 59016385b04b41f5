"""One database: its connections, transactions and migrations. I/O.

Belongs here: what SQLite and PostgreSQL do differently. Doesn't: what the tables mean (the store's other modules).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Executable, Table, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from ca.store.sqlite_threads import SqliteThreads
from shared.model.errors import ConflictError, InputError, UnavailableError

DATABASE_NAME: Final = "touchmark.db"
_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_BUSY_TIMEOUT_MS: Final = 5_000
_WRITER: Final = "touchmark_writer"


class Database:
    """Transactions on one database. Every failure of it becomes ``UnavailableError``.

    SQLite has one writer at a time: a lock in this process queues them, so that nobody polls the file's lock, and
    writers begin IMMEDIATE, so that a transaction that read first can't fail for having to write.
    """

    def __init__(self, url: URL) -> None:
        self.url = url
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self._engine = _create_engine(url, is_sqlite=self.is_sqlite)
        self._writer = self._engine.execution_options(**{_WRITER: True})
        self._write_turn = asyncio.Lock()
        self._threads = SqliteThreads(self._engine.sync_engine) if self.is_sqlite else None

    @classmethod
    async def open(cls, where: str | Path) -> Database:
        """Open and migrate a database.

        Arguments:
            where: the data directory, made with mode 0700 when it isn't there; or an SQLAlchemy URL.

        Raises:
            InputError: no such kind of database, or the directory can't be used.
            ConflictError: the database was made by a newer version.
            UnavailableError: it doesn't answer.
        """
        url = await asyncio.to_thread(_prepare_directory, where) if isinstance(where, Path) else _parse_url(where)
        database = cls(url)
        try:
            await database._migrate()
        except BaseException:
            await database.close()
            raise
        return database

    async def close(self) -> None:
        """Close every connection, and wait for what was cancelled and still works."""
        await self._engine.dispose()
        if self._threads is not None:
            await self._threads.join()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Give a transaction that sees one snapshot and changes nothing."""
        with _translated():
            async with self._engine.connect() as connection:
                yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """Give a transaction that commits at the end of the block and rolls back on any exception."""
        with _translated():
            if not self.is_sqlite:
                async with self._writer.begin() as connection:
                    yield connection
                return
            async with self._write_turn, self._writer.begin() as connection:
                yield connection

    def upsert(self, table: Table, values: Mapping[str, Any], *, update: Sequence[str] | None = None) -> Executable:
        """Insert a row or, where its primary key exists, update it.

        Arguments:
            update: the columns to update; all but the key by default; none: leave the row as it is.
        """
        keys = [column.name for column in table.primary_key]
        names = [name for name in values if name not in keys] if update is None else list(update)
        if self.is_sqlite:
            lite = sqlite.insert(table).values(**values)
            if not names:
                return lite.on_conflict_do_nothing(index_elements=keys)
            return lite.on_conflict_do_update(index_elements=keys, set_={name: lite.excluded[name] for name in names})
        statement = postgresql.insert(table).values(**values)
        if not names:
            return statement.on_conflict_do_nothing(index_elements=keys)
        return statement.on_conflict_do_update(
            index_elements=keys, set_={name: statement.excluded[name] for name in names}
        )

    async def _migrate(self) -> None:
        try:
            async with self.writing() as connection:
                await connection.run_sync(_upgrade)
        except CommandError as error:
            raise ConflictError(
                f"this database was made by another version of Touchmark: {error}",
                hint="start the version that made it, or a newer one",
            ) from error


def _create_engine(url: URL, *, is_sqlite: bool) -> AsyncEngine:
    if not is_sqlite:
        return create_async_engine(url, pool_size=8, max_overflow=0, pool_timeout=10, pool_pre_ping=True)
    engine = create_async_engine(url, pool_size=4, max_overflow=0, pool_timeout=10)

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # The driver must not begin transactions by its own rules.
        cursor = connection.cursor()
        # A spent token and a signed certificate must survive a power cut: FULL, not NORMAL.
        for pragma in ("journal_mode = WAL", "synchronous = FULL", f"busy_timeout = {_BUSY_TIMEOUT_MS}"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        is_writer = connection.get_execution_options().get(_WRITER, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writer else "BEGIN")

    return engine


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _prepare_directory(directory: Path) -> URL:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / DATABASE_NAME
        # The file holds sealed keys and everything that was decided: nobody else reads it, whatever the umask.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise InputError(
            f"the data directory {directory} can't be used: {error.strerror}",
            hint="name a directory that this user can write, with --data-dir",
        ) from error
    return URL.create("sqlite+aiosqlite", database=str(path))


def _parse_url(text: str) -> URL:
    try:
        url = make_url(text)
    except SQLAlchemyError as error:
        raise InputError("not a database URL", hint="such as postgresql+asyncpg://user@host/touchmark") from error
    if url.drivername not in ("sqlite+aiosqlite", "postgresql+asyncpg"):
        raise InputError(f"not a supported database: {url.drivername}", hint="sqlite+aiosqlite or postgresql+asyncpg")
    return url


class _translated:  # noqa: N801 (used as a statement)
    """Turn the database's failures into ours; leave everything else alone."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, (SQLAlchemyError, OSError)):
            cause = getattr(error, "orig", None) or error
            raise UnavailableError(
                f"the CA's store doesn't work: {cause}", hint="see whether its file and disk, or its server, are there"
            ) from error
