"""Migrations run on the connection that they are given, and can be undone."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, inspect, text

import ca.store.migrations
from ca.authority.authorities import Authorities
from ca.store.engine.database import Database
from ca.store.records import RotationStep
from ca.store.store import Store
from shared.model.trust.bundle import RotationKind
from tests.ca.founded import KEK, NOW, TRUST_DOMAIN, WEB, make_rotation
from tests.ca.postgresql import PostgreSQL


def make_config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(ca.store.migrations.__file__).parent))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def undo(connection: Connection) -> list[str]:
    command.downgrade(make_config(connection), "base")
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


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_database_of_the_first_release_keeps_what_it_holds(
    tmp_path: Path, postgresql: PostgreSQL, kind: str
) -> None:
    """Down to the first revision and up again is what an upgrade of the first release's database meets."""
    where = tmp_path / "d" if kind == "sqlite" else postgresql.url_for(tmp_path)
    database = await Database.open(where)
    flag = "1" if kind == "sqlite" else "true"
    columns = "namespace, service_account, allowed_addresses, labels, tunnel_port, version, capture, joined, last_seen"
    try:
        async with database.writing() as connection:
            await connection.run_sync(lambda sync: migrate(sync, "0001"))
            values = f"'a', 'shop', 'web', '[]', '{{}}', 15008, '0', 'listeners', 1.5, 2.5, {flag}, 3"
            statement = f"INSERT INTO sidecars (instance, {columns}, connected, installed_sequence) VALUES ({values})"
            await connection.execute(text(statement))
    finally:
        await database.close()
    store = await Store.open(where, trust_domain="touchmark.local", replica="one")
    try:
        (sidecar,) = await store.sidecars.list_all()
        assert (sidecar.instance, sidecar.connected, sidecar.pod_uid, sidecar.last_seen) == ("a", True, "", 2.5)
        await store.sidecars.disconnect_all()  # No replica is named for it: it was this one's.
        assert not (await store.sidecars.list_all())[0].connected
    finally:
        await store.close()


def migrate(connection: Connection, revision: str) -> None:
    command.downgrade(make_config(connection), revision)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_database_from_before_roots_rotated_goes_on_with_its_rotation_and_its_tokens(
    tmp_path: Path, postgresql: PostgreSQL, kind: str
) -> None:
    """An issuer's rotation is under way and a token is open when the CA is upgraded; then the root is rotated."""
    where = tmp_path / "d" if kind == "sqlite" else postgresql.url_for(tmp_path)
    store = await Store.open(where, trust_domain=TRUST_DOMAIN)
    try:
        authorities = await Authorities.open(store, KEK, now=NOW)
        pin = authorities.root_pin
        await store.join_tokens.create(workload=WEB, addresses=(), labels={}, expires=NOW + 60, now=NOW)
        await make_rotation(store, authorities, minimum_s=60).start(now=NOW)
        async with store.database.writing() as connection:
            await connection.run_sync(lambda sync: migrate(sync, "0003"))
    finally:
        await store.close()
    store = await Store.open(where, trust_domain=TRUST_DOMAIN)
    try:
        authorities = await Authorities.open(store, KEK, now=NOW)
        rotation = make_rotation(store, authorities)
        status = await rotation.status(NOW)
        assert status is not None and (status.kind, status.step) == (RotationKind.ISSUER, RotationStep.PREPARED)
        (token,) = await store.join_tokens.list_all()
        assert token.root_pin == pin
        await rotation.advance(NOW)
        await rotation.advance(NOW)
        status = await rotation.start(kind=RotationKind.ROOT, now=NOW)
        assert (status.step, status.tokens) == (RotationStep.ACTIVE, (token,))
        await rotation.advance(NOW + 61)
        last = await store.authorities.get_rotation()
        assert last is not None and last.step is RotationStep.RETIRED
    finally:
        await store.close()
