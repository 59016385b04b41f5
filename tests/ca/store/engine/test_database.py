"""Opening: fresh, again, unusable; and that the migrations make what the code expects."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from ca.authority.authorities import Authorities
from ca.store.engine import database as database_module
from ca.store.engine.database import DATABASE_NAME, Database
from ca.store.store import Store
from ca.store.tables import metadata
from shared.model.errors import ConflictError, InputError, UnavailableError
from shared.model.policy.rules import Mode
from tests.ca.founded import KEK, NOW, TRUST_DOMAIN
from tests.ca.postgresql import PostgreSQL
from tests.free_ports import free_port


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


@pytest.mark.parametrize(
    "url",
    [
        "mysql://h/d",
        "::",
        "sqlite:///x",
        "postgresql://h:port/d",
        "postgresql://h/d?sslmode=maybe",
        "postgresql://h/d?sslmode=verify-full&sslrootcert=/nowhere",
        "postgresql://h/d?sslrootcert=/etc/ssl/certs/ca-certificates.crt",
        "postgresql://h/d?options=x",
        "postgresql://h/d?sslmode=require&sslrootcert=/nowhere",
    ],
)
async def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(InputError):
        await Database.open(url)


async def test_postgresql_gets_the_same_tables_from_several_at_once(postgresql: PostgreSQL, tmp_path: Path) -> None:
    """Replicas that start together migrate one after another, and found one authority."""

    def compare(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    url = postgresql.url_for(tmp_path)
    stores = await asyncio.gather(*(Store.open(url, trust_domain=TRUST_DOMAIN) for _ in range(4)))
    try:
        async with stores[0].database.reading() as connection:
            assert await connection.run_sync(compare) == []
        found = await asyncio.gather(*(Authorities.open(store, KEK, now=NOW) for store in stores))
        assert len({authorities.active.authority_id for authorities in found}) == 1
        with pytest.raises(ConflictError, match="trust domain"):
            await Store.open(url, trust_domain="other.test")
        async with stores[0].database.writing() as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(ConflictError, match="another version"):
            await Database.open(url)
    finally:
        for store in stores:
            await store.close()


async def test_a_reading_sees_one_moment(postgresql: PostgreSQL, tmp_path: Path) -> None:
    store = await Store.open(postgresql.url_for(tmp_path), trust_domain=TRUST_DOMAIN)
    try:
        async with store.database.reading() as connection:
            query = text("SELECT count(*) FROM namespaces")
            assert await connection.scalar(query) == 0
            await store.namespaces.set_mode("shop", Mode.EXPLICIT)
            assert await connection.scalar(query) == 0
            with pytest.raises(DBAPIError, match="read-only"):
                await connection.execute(text("DELETE FROM namespaces"))
        assert abs(await _clock(store) - time.time()) < 5
    finally:
        await store.close()


async def _clock(store: Store) -> float:
    async with store.database.writing() as connection:
        return await store.database.read_clock(connection)


async def test_a_database_that_refuses_or_is_away_is_a_clear_error(postgresql: PostgreSQL, tmp_path: Path) -> None:
    url = postgresql.url_for(tmp_path)
    name = url.rpartition("/")[2]
    wrong = postgresql.url(name, password="wrong-password")
    for bad in (wrong, url.replace(name, "nothing"), f"postgresql://u:wrong-password@127.0.0.1:{free_port()}/d"):
        with pytest.raises(UnavailableError, match="store doesn't work") as caught:
            await Database.open(bad)
        assert "wrong-password" not in caught.value.message and postgresql.password not in caught.value.message
    database = await Database.open(url)
    try:
        assert postgresql.password not in database.place and name in database.place
    finally:
        await database.close()


async def test_the_servers_certificate_is_checked_where_the_url_says_so(postgresql: PostgreSQL, tmp_path: Path) -> None:
    url = postgresql.url_for(tmp_path)
    root = tmp_path / "root.pem"
    root.write_bytes(postgresql.certificate.read_bytes())
    for options in ("sslmode=disable", "sslmode=require", f"sslmode=verify-full&sslrootcert={root}"):
        await (await Database.open(f"{url}?{options}")).close()
    # Neither a root that isn't its own, nor another name than the certificate's.
    for bad in (
        f"{url}?sslmode=verify-full",
        url.replace("127.0.0.1", "localhost") + f"?sslmode=verify-full&sslrootcert={root}",
    ):
        with pytest.raises(UnavailableError):
            await Database.open(bad)


async def test_a_transaction_in_sqlites_thread_is_whole_or_not_there(tmp_path: Path) -> None:
    def count(driver: sqlite3.Connection) -> int:
        (found,) = driver.execute("SELECT count(*) FROM namespaces_seen").fetchone()
        return int(found)

    def add(driver: sqlite3.Connection) -> int:
        driver.execute("CREATE TABLE IF NOT EXISTS namespaces_seen (name TEXT PRIMARY KEY)")
        driver.execute("INSERT INTO namespaces_seen VALUES ('shop')")
        return count(driver)

    def add_and_fail(driver: sqlite3.Connection) -> None:
        driver.execute("INSERT INTO namespaces_seen VALUES ('bank')")
        raise InputError("no")

    database = await Database.open(tmp_path)
    try:
        assert await database.write_in_thread(add) == 1
        with pytest.raises(InputError):
            await database.write_in_thread(add_and_fail)
        with pytest.raises(UnavailableError, match="UNIQUE"):
            await database.write_in_thread(add)
        assert await database.write_in_thread(count) == 1
        # Both kinds of writers take turns.
        async with database.writing() as connection:
            waiting = asyncio.create_task(database.write_in_thread(count))
            await connection.execute(text("INSERT INTO namespaces_seen VALUES ('bank')"))
            await asyncio.sleep(0)
            assert not waiting.done()
        assert await waiting == 2
    finally:
        await database.close()


async def test_a_migration_may_take_longer_than_a_statement_of_the_ca(
    tmp_path: Path, postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index over millions of rows takes longer than a CA may wait for an answer: it would never start again."""
    statements = []

    def migrate(connection: Connection) -> None:
        connection.execute(text("SELECT pg_sleep(1.5)"))
        statements.append("migrated")

    monkeypatch.setattr(database_module, "STATEMENT_DEADLINE_S", 0.5)
    monkeypatch.setattr(database_module, "upgrade", migrate)
    database = await Database.open(postgresql.url_for(tmp_path))
    try:
        assert statements == ["migrated"]
        with pytest.raises(UnavailableError):
            async with database.reading() as connection:
                await connection.execute(text("SELECT pg_sleep(600)"))
    finally:
        await database.close()
