"""The tables' version in a database: the migrations, run on a connection. I/O through the given connection."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

_MIGRATIONS: Final = Path(__file__).parents[1] / "migrations"


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Bring the tables to a revision, within the connection's transaction.

    Raises:
        CommandError: the database was made by another version of Touchmark.
    """
    config = _configure()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def read_revision(connection: Connection) -> str:
    """Return the tables' revision; empty for a database without tables."""
    return MigrationContext.configure(connection).get_current_revision() or ""


def list_revisions() -> frozenset[str]:
    """Return every revision that this version knows."""
    return frozenset(script.revision for script in ScriptDirectory.from_config(_configure()).walk_revisions())


def _configure() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
