"""One database: its connections, transactions and migrations. I/O.

Belongs here: what SQLite and PostgreSQL do differently. Doesn't: what the tables mean (the store's other modules).
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import aiosqlite
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Double, Executable, Table, cast, event, extract, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from ca.store.engine.disk import Disk, Space
from ca.store.engine.kept_connection import Driver, KeptConnection
from ca.store.engine.revisions import upgrade
from ca.store.engine.sqlite_threads import SqliteThreads
from ca.store.engine.upsert import make_upsert
from ca.store.engine.whole_transactions import WholeTransactions
from shared.model.errors import ConflictError, InputError, UnavailableError

DATABASE_NAME: Final = "touchmark.db"
STATEMENT_DEADLINE_S: Final = 20.0
# Of a statement of a migration, which may rewrite a table or index it, or wait for another replica's migrations.
MIGRATION_DEADLINE_S: Final = 4 * 3600.0
CONNECT_DEADLINE_S: Final = 5.0
POOL_DEADLINE_S: Final = 10.0  # Of who waits for one of the pool's connections.
# Advisory locks of PostgreSQL: the first number is ours ("TOUC"), the second says what for.
_TURNS: Final = 0x544F5543
MIGRATIONS: Final = 1
DECISIONS: Final = 2
PARTITIONS: Final = 3
_BUSY_TIMEOUT_MS: Final = 5_000
_LOG_LIMIT: Final = "journal_size_limit = 8388608"  # The log keeps no more of the disk than that after a checkpoint.
_WRITER: Final = "touchmark_writer"
_T = TypeVar("_T")


class Database:
    """Transactions on one database. Every failure of it becomes ``UnavailableError``.

    SQLite has one writer at a time: a lock in this process queues them, so that no writer polls the file's lock, and
    writers begin IMMEDIATE, so that a transaction that read first can't fail for having to write.
    """

    def __init__(self, url: URL) -> None:
        self.url = url
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self._engine = _create_engine(url, is_sqlite=self.is_sqlite)
        self._writer = self._engine.execution_options(**{_WRITER: True})
        # PostgreSQL's default shows each statement of a transaction another state.
        snapshot = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        self._reader = self._engine.execution_options(**snapshot)
        self._write_turn = asyncio.Lock()
        self._threads = SqliteThreads(self._engine.sync_engine) if self.is_sqlite else None
        self._whole_writes = WholeTransactions(self._connect_beside, begin="BEGIN IMMEDIATE", turn=self._write_turn)
        self._whole_reads = WholeTransactions(self._connect_beside, begin="BEGIN", turn=None)
        self._disk = Disk(Path(str(url.database)).parent) if self.is_sqlite else None
        self._kept = None if self.is_sqlite else _keep_connection(url)

    @classmethod
    async def open(cls, where: str | Path) -> Database:
        """Open and migrate a database.

        Arguments:
            where: the data directory, made with mode 0700 when it isn't there; or a URL (``postgresql://…``).

        Raises:
            InputError: no such kind of database, or the directory can't be used.
            ConflictError: the database was made by a newer version.
            UnavailableError: it doesn't answer.
        """
        database = await cls.make(where)
        try:
            await database._migrate()
        except BaseException:
            await database.close()
            raise
        return database

    @classmethod
    async def make(cls, where: str | Path) -> Database:
        """Return a database as it is, without migrating it; arguments and errors are those of ``open``."""
        return cls(await asyncio.to_thread(_prepare_directory, where) if isinstance(where, Path) else _parse_url(where))

    @property
    def place(self) -> str:
        """Where the database is, without any password."""
        return str(self.url.database) if self.is_sqlite else self.url.render_as_string(hide_password=True)

    async def close(self) -> None:
        """Close every connection, and wait for what was cancelled and still works."""
        await self._whole_writes.close()
        await self._whole_reads.close()
        if self._kept is not None:
            await self._kept.close()
        await self._engine.dispose()
        if self._threads is not None:
            await self._threads.join()

    @property
    def is_disk_full(self) -> bool:
        """Whether a write has failed for want of room, and there isn't enough again. Of SQLite only."""
        return self._disk is not None and self._disk.is_full

    async def look_at_disk(self) -> Space | None:
        """Return what is left of the disk under SQLite's file, and renew its reserve; None for PostgreSQL.

        Raises:
            UnavailableError: the file or its directory is gone.
        """
        if self._disk is None:
            return None
        async with self.reading() as connection:
            sizes = [
                int((await connection.exec_driver_sql(f"PRAGMA {name}")).scalar_one())
                for name in ("freelist_count", "page_size")
            ]
        unused = sizes[0] * sizes[1]
        with _translated():
            await asyncio.to_thread(self._disk.refill, unused_in_file=unused)
            return self._disk.measure(unused_in_file=unused)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Give a transaction that sees one snapshot and changes nothing."""
        with _translated():
            async with self._reader.connect() as connection:
                yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """Give a transaction that commits at the end of the block and rolls back on any exception."""
        with _translated():
            if not self.is_sqlite:
                async with self._writer.begin() as connection:
                    yield connection
                return
            with self._noting():
                async with self._write_turn, self._writer.begin() as connection:
                    yield connection

    @asynccontextmanager
    async def migrating(self) -> AsyncIterator[AsyncConnection]:
        """Give a transaction as ``writing``, whose statements may take as long as a migration's."""
        if self.is_sqlite:  # It gives no statement up.
            async with self.writing() as connection:
                yield connection
            return
        engine = _create_engine(self.url, is_sqlite=False, deadline_s=MIGRATION_DEADLINE_S)
        try:
            with _translated():
                async with engine.begin() as connection:
                    yield connection
        finally:
            await engine.dispose()

    async def read(self, work: Callable[[AsyncConnection], Coroutine[Any, Any, _T]]) -> _T:
        """Run a short transaction that sees one snapshot and changes nothing: a few rows by their keys.

        Many at once cost less than by ``reading``. With SQLite one that takes long would keep the others waiting.

        Arguments:
            work: the transaction; it may wait for nothing but its connection.
        """
        if not self.is_sqlite:
            async with self.reading() as connection:
                return await work(connection)
        with _translated():
            return await self._whole_reads.run(work)

    async def write(
        self,
        work: Callable[[AsyncConnection], Coroutine[Any, Any, _T]],
        *,
        on_commit: Callable[[_T], None] = lambda _: None,
        is_long: bool = False,
    ) -> _T:
        """Run a short transaction, commit it, and return what it returns; what it raises rolls it back.

        Many at once cost less than by ``writing``: with SQLite they share a commit, and one that has begun goes on when
        its caller is cancelled.

        Arguments:
            work: the transaction; it may wait for nothing but its connection.
            on_commit: is called with what it returned; with SQLite also where the caller was cancelled meanwhile. What
                it raises the caller gets, although the transaction is committed.
            is_long: it takes milliseconds. With SQLite short ones go first and wait for one of these at most; where
                they have to, long ones get a tenth of the time.
        """
        if not self.is_sqlite:
            async with self.writing() as connection:
                result = await work(connection)
            on_commit(result)
            return result
        with _translated(), self._noting():
            return await self._whole_writes.run(work, on_commit=on_commit, is_long=is_long)

    @property
    def is_pressed(self) -> bool:
        """Whether short transactions wait for SQLite's one writer, or have lately: long ones are to be cut short.

        May be asked within a transaction.
        """
        return self.is_sqlite and self._whole_writes.is_pressed

    async def write_in_thread(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run a transaction of SQLite on the driver's connection, in its thread; otherwise as ``write``.

        Arguments:
            work: of SQLAlchemy it can use compiled text.
        """
        with _translated(), self._noting():
            return await self._whole_writes.run_driver(work)

    async def write_kept(self, work: Callable[[Driver], Awaitable[_T]]) -> _T:
        """Run a transaction of PostgreSQL on a connection of the driver's that is kept for such, one after another.

        It is rolled back where its caller is cancelled.

        Arguments:
            work: of SQLAlchemy it can use compiled text; each statement sees what is committed when it begins.
        """
        assert self._kept is not None
        with _translated():
            return await self._kept.transact(work)

    def upsert(self, table: Table, values: Mapping[str, Any], *, update: Sequence[str] | None = None) -> Executable:
        """Insert a row or, where its primary key exists, update it.

        Arguments:
            update: the columns to update; all but the key by default; none: leave the row as it is.
        """
        return make_upsert(sqlite.insert if self.is_sqlite else postgresql.insert, table, values, update=update)

    async def take_turn(self, connection: AsyncConnection, turn: int) -> None:
        """Let transactions of all replicas that take the same turn run one after another.

        SQLite's writers do that anyway.
        """
        if not self.is_sqlite:
            await connection.execute(select(func.pg_advisory_xact_lock(_TURNS, turn)))

    async def read_clock(self, connection: AsyncConnection) -> float:
        """Return the database's clock, seconds since the epoch: the one clock of all replicas."""
        if self.is_sqlite:
            return time.time()  # The database is this machine.
        moment = cast(extract("epoch", func.clock_timestamp()), Double)
        return float(await connection.scalar(select(moment)) or 0.0)

    @contextmanager
    def _noting(self) -> Iterator[None]:
        assert self._disk is not None
        try:
            yield
        except (sqlite3.Error, SQLAlchemyError, OSError) as error:
            self._disk.note_failure(error)
            raise

    async def _connect_beside(self) -> aiosqlite.Connection:
        # Getting one from the pool takes as long as a transaction does, and this one keeps what it has read.
        assert self._threads is not None
        return await self._threads.connect(str(self.url.database), _configure_sqlite)

    async def _migrate(self) -> None:
        try:
            async with self.migrating() as connection:
                await self.take_turn(connection, MIGRATIONS)
                await connection.run_sync(upgrade)
        except CommandError as error:
            raise ConflictError(
                f"this database was made by another version of Touchmark: {error}",
                hint="start the version that made it, or a newer one",
            ) from error


def _create_engine(url: URL, *, is_sqlite: bool, deadline_s: float | None = None) -> AsyncEngine:
    if not is_sqlite:
        options = _driver_options(url, STATEMENT_DEADLINE_S if deadline_s is None else deadline_s)
        return create_async_engine(
            url.set(query={}),
            pool_size=8,
            max_overflow=0,
            pool_timeout=POOL_DEADLINE_S,
            pool_pre_ping=True,
            connect_args=options,
        )
    engine = create_async_engine(url, pool_size=4, max_overflow=0, pool_timeout=POOL_DEADLINE_S)

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        _configure_sqlite(connection)

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        is_writer = connection.get_execution_options().get(_WRITER, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writer else "BEGIN")

    return engine


def _driver_options(url: URL, statement_s: float) -> dict[str, Any]:
    options = {"timeout": CONNECT_DEADLINE_S, "command_timeout": statement_s, **_tls_options(url)}
    return {**options, "server_settings": {"application_name": "touchmark-ca"}}


def _keep_connection(url: URL) -> KeptConnection:
    import asyncpg  # It takes memory that a CA with SQLite needn't have.

    async def connect() -> Driver:
        where = url.set(query={}).translate_connect_args(username="user")
        driver: Driver = await asyncpg.connect(**where, **_driver_options(url, STATEMENT_DEADLINE_S))
        return driver

    failures = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
    return KeptConnection(connect, failures=failures)


def _configure_sqlite(connection: Any) -> None:
    """Set up a connection: the driver's own, or what SQLAlchemy puts in its place."""
    connection.isolation_level = None  # The driver must not begin transactions by its own rules.
    cursor = connection.cursor()
    # A spent token and a signed certificate must survive a power cut: FULL, not NORMAL.
    for pragma in ("journal_mode = WAL", "synchronous = FULL", f"busy_timeout = {_BUSY_TIMEOUT_MS}", _LOG_LIMIT):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _prepare_directory(directory: Path) -> URL:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / DATABASE_NAME
        # The file holds sealed keys and everything that was decided: no other user reads it, whatever the umask.
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
    except (SQLAlchemyError, ValueError) as error:
        raise InputError("not a database URL", hint="such as postgresql://user@host/touchmark") from error
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+asyncpg")
    if url.drivername not in ("sqlite+aiosqlite", "postgresql+asyncpg"):
        raise InputError(f"not a supported database: {url.drivername}", hint="postgresql://user@host/touchmark")
    _tls_options(url)
    return url


def _tls_options(url: URL) -> dict[str, Any]:
    """Read libpq's ``sslmode`` and ``sslrootcert``: how the server's certificate is checked.

    Source: PostgreSQL's documentation, "SSL Support" (33.19). Without ``sslmode`` the connection is encrypted where the
    server can, and no certificate is checked.
    """
    query = dict(url.query)
    mode, root = query.pop("sslmode", "prefer"), query.pop("sslrootcert", "")
    if query and url.drivername == "postgresql+asyncpg":
        raise InputError(f"a database URL's {min(query)[:40]} means nothing here", hint="known: sslmode, sslrootcert")
    if mode not in ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"):
        raise InputError(f"not an sslmode: {str(mode)[:40]!r}", hint="use verify-full and sslrootcert")
    if mode not in ("verify-ca", "verify-full"):
        if root:
            raise InputError("sslrootcert is used with sslmode=verify-full (or verify-ca)")
        return {"ssl": mode}
    try:
        # Without a file: the roots that this system trusts.
        context = ssl.create_default_context(cafile=str(root) or None)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"sslrootcert can't be used: {root}: {error}") from error
    context.check_hostname = mode == "verify-full"
    return {"ssl": context}


class _translated:  # noqa: N801 (used as a statement)
    """Turn the database's failures into ours; leave everything else alone."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        # What the driver says while it connects comes as it is.
        is_drivers = type(error).__module__.startswith("asyncpg.")
        if isinstance(error, (SQLAlchemyError, sqlite3.Error, OSError)) or (
            is_drivers and isinstance(error, Exception)
        ):
            cause = getattr(error, "orig", None) or str(error) or repr(error)
            raise UnavailableError(
                f"the CA's store doesn't work: {cause}", hint="see whether its file and disk, or its server, are there"
            ) from error
