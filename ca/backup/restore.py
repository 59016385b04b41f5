"""A backup takes a store's place, whole or not at all. I/O.

Belongs here: what is checked before, and the exchange. Doesn't: the content (``loading.py``); the data directory's
lock, which the caller holds.

SQLite: the backup becomes a file beside the old one, which is exchanged by one rename at the end. PostgreSQL: one
transaction. Who is killed in between leaves the old store, or the new one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sqlalchemy import func, select, text

from ca.authority.kek import KeyEncryptionKey
from ca.backup import lost_acts
from ca.backup.export import list_tables
from ca.backup.loading import Loaded, load
from ca.backup.sealing import Opened
from ca.store.engine.database import DATABASE_NAME, MIGRATIONS, Database
from ca.store.engine.revisions import list_revisions, read_revision
from ca.store.replicas import check_unused
from ca.store.tables import authorities
from shared.model.errors import ConflictError, UnavailableError

DRAFT: Final = "restoring"
KEPT: Final = f"{DATABASE_NAME}.before-restore"
_LOGS: Final = ("-wal", "-shm")


async def restore_directory(
    opened: Opened, data_dir: Path, *, find_kek: Callable[[str], KeyEncryptionKey], may_replace: bool, now: float
) -> Loaded:
    """Restore into a data directory that the caller has locked. A store that was there is kept as ``KEPT``.

    Raises:
        ConflictError: there is a store, and ``may_replace`` is False; or somebody has it open.
        InputError, KeyEncryptionError, UnavailableError: as ``load``. Nothing has changed then.
    """
    path, draft = data_dir / DATABASE_NAME, data_dir / DRAFT
    if _is_used(path) and not may_replace:
        raise _refuse_to_replace(str(path))
    shutil.rmtree(draft, ignore_errors=True)  # Of a restore that was killed.
    try:
        database = await Database.make(draft)
        try:
            async with database.writing() as connection:
                loaded = await load(
                    database, connection, opened, find_kek=find_kek, now=now, former=lost_acts.read_file(path)
                )
        finally:
            await database.close()
        _fold(draft / DATABASE_NAME)
        _set_aside(path)
        os.replace(draft / DATABASE_NAME, path)
        _sync(data_dir)
    except (OSError, sqlite3.Error) as error:
        raise UnavailableError(f"the backup can't be restored into {data_dir}: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return loaded


async def restore_database(
    opened: Opened, url: str, *, find_kek: Callable[[str], KeyEncryptionKey], may_replace: bool, now: float
) -> Loaded:
    """Restore into a PostgreSQL database on which no CA works. What was there is gone afterwards.

    Raises:
        ConflictError: a CA works on it, there is a store and ``may_replace`` is False, or a newer version made it.
        InputError, KeyEncryptionError, UnavailableError: as ``load``. Nothing has changed then.
    """
    database = await Database.make(url)
    try:
        async with database.migrating() as connection:
            await database.take_turn(connection, MIGRATIONS)
            former: list[lost_acts.Line] = []
            if revision := await connection.run_sync(read_revision):
                if revision not in list_revisions():
                    raise ConflictError("this database was made by a newer version of Touchmark")
                await check_unused(database, connection)
                if not may_replace and await connection.scalar(select(func.count()).select_from(authorities)):
                    raise _refuse_to_replace(database.place)
                former = await lost_acts.read_database(connection)
            for name in (*reversed([table.name for table in list_tables(with_left_out=True)]), "alembic_version"):
                await connection.execute(text(f'DROP TABLE IF EXISTS "{name}"'))
            return await load(database, connection, opened, find_kek=find_kek, now=now, former=former)
    finally:
        await database.close()


def _is_used(path: Path) -> bool:
    """Tell whether there is a store with authorities; one that can't be read counts."""
    if not path.exists() or path.stat().st_size == 0:
        return False
    with contextlib.closing(sqlite3.connect(path)) as connection:
        try:
            return bool(connection.execute("SELECT count(*) FROM authorities").fetchone()[0])
        except sqlite3.OperationalError as error:
            return "no such table" not in str(error)
        except sqlite3.DatabaseError:
            return True


def _fold(path: Path) -> None:
    """Bring a database's log into its file, so that the file is everything. Durable when it returns.

    Raises:
        ConflictError: somebody has it open.
        sqlite3.DatabaseError: it can't be read.
    """
    with contextlib.closing(sqlite3.connect(path, timeout=5.0)) as connection:
        try:
            connection.execute("PRAGMA journal_mode = DELETE").fetchone()
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise ConflictError(f"another process has {path} open", hint="end it first") from error
            raise
    _sync(path)


def _set_aside(path: Path) -> None:
    """Keep the old store as another name of the same file; its log must not be taken for the new one's."""
    if not path.exists():
        return
    kept = path.with_name(KEPT)
    for suffix in ("", *_LOGS):
        kept.with_name(kept.name + suffix).unlink(missing_ok=True)
    try:
        _fold(path)
    except sqlite3.DatabaseError:  # Damaged: all of it is kept as it is, for whoever wants to rescue something.
        for suffix in _LOGS:
            log = path.with_name(path.name + suffix)
            if log.exists():
                os.link(log, kept.with_name(kept.name + suffix))
        os.link(path, kept)
        for suffix in _LOGS:
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    else:
        os.link(path, kept)
    _sync(path.parent)


def _refuse_to_replace(place: str) -> ConflictError:
    return ConflictError(
        f"{place} holds a CA's store already",
        hint="make a backup of it if you may need it, then repeat with --replace",
    )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
