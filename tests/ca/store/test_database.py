"""Opening: fresh, again, unusable; and that the migrations make what the code expects."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from ca.store.database import DATABASE_NAME, Database
from ca.store.store import Store
from ca.store.tables import metadata
from shared.model.errors import ConflictError, InputError, UnavailableError


async def test_the_migrations_make_the_tables_that_the_code_uses(tmp_path: Path) -> None:
    def compare(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    database = await Database.open(tmp_path / "d")
    try:
        async with database.reading() as connection:
            assert await connection.run_sync(compare) == []
    finally:
        await database.close()


async def test_the_files_are_the_owners_alone(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "d")
    await database.close()
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "d" / DATABASE_NAME).stat().st_mode & 0o777 == 0o600


async def test_a_directory_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "d").write_text("")
    with pytest.raises(InputError, match="data directory"):
        await Database.open(tmp_path / "d")


async def test_a_file_that_is_no_database_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / DATABASE_NAME).write_bytes(b"no database at all, but long enough to be looked at" * 100)
    with pytest.raises(UnavailableError, match="store"):
        await Database.open(tmp_path)


async def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    database = await Database.open(tmp_path)
    async with database.writing() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    await database.close()
    with pytest.raises(ConflictError, match="another version"):
        await Database.open(tmp_path)


async def test_another_trust_domain_is_refused(tmp_path: Path) -> None:
    await (await Store.open(tmp_path, trust_domain="one.test")).close()
    with pytest.raises(ConflictError, match=r"one\.test"):
        await Store.open(tmp_path, trust_domain="two.test")


@pytest.mark.parametrize("url", ["mysql://h/d", "::", "sqlite:///x"])
async def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(InputError):
        await Database.open(url)
