"""Migrations run on the connection that they are given, and can be undone."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, inspect

import ca.store.migrations
from ca.store.database import Database


def undo(connection: Connection) -> list[str]:
    config = Config()
    config.set_main_option("script_location", str(Path(ca.store.migrations.__file__).parent))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.downgrade(config, "base")
    return list(inspect(connection).get_table_names())


async def test_what_the_migrations_made_they_can_undo_in_the_same_transaction(tmp_path: Path) -> None:
    database = await Database.open(tmp_path)
    try:
        async with database.writing() as connection:
            assert set(await connection.run_sync(undo)) <= {"alembic_version", "sqlite_sequence"}
    finally:
        await database.close()
    again = await Database.open(tmp_path)
    try:
        async with again.reading() as connection:
            names = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
            assert "certificates" in names
    finally:
        await again.close()
