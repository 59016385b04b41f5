"""A prepared statement does the same in SQLite's thread, on a pool's connection, and with PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import bindparam, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.store.engine.database import Database
from ca.store.engine.prepared import Prepared, Rows, prepare_insert, prepare_update, prepare_upsert
from ca.store.tables import namespaces
from tests.ca.founded import opened

INSERT = prepare_insert(namespaces)
FIND = Prepared(select(namespaces).where(namespaces.c.namespace == bindparam("namespace")))
IN_MODE = Prepared(
    select(namespaces.c.namespace).where(or_(namespaces.c.mode == "explicit", namespaces.c.mode == bindparam("mode")))
)
RENAME = prepare_update(namespaces, ("mode", "version"), namespaces.c.namespace == bindparam("of_namespace"))
REPLACE = prepare_upsert(namespaces, [column.name for column in namespaces.c], updated=("version",))
KEEP = prepare_upsert(namespaces, [column.name for column in namespaces.c], updated=())
ROW: dict[str, Any] = {
    "namespace": "shop",
    "version": 1,
    "mode": "permissive",
    "has_policy": True,
    "group_label": "",
    "rules": "[]",
    "requires": "[]",
    "workload_modes": "[]",
}
Work = Callable[[AsyncConnection], Coroutine[Any, Any, Rows]]


async def write_whole(database: Database, work: Work) -> Rows:
    return await database.write(work)


async def write_step_by_step(database: Database, work: Work) -> Rows:
    async with database.writing() as connection:
        return await work(connection)


@pytest.mark.parametrize("write", [write_whole, write_step_by_step])
async def test_rows_are_found_with_their_names_and_types_and_changes_are_counted(
    tmp_path: Path, write: Callable[[Database, Work], Coroutine[Any, Any, Rows]]
) -> None:
    async with opened(tmp_path / "d") as core:
        database = core.store.database
        await write(database, lambda connection: INSERT.on(connection, **ROW))
        found = (await write(database, lambda connection: FIND.on(connection, namespace="shop"))).first()
        assert (found.namespace, found.version, found.has_policy) == ("shop", 1, True)
        changed = await write(
            database, lambda connection: RENAME.on(connection, of_namespace="shop", mode="explicit", version=2)
        )
        assert changed.rowcount == 1
        # A condition's own value and one that varies.
        rows = await write(database, lambda connection: IN_MODE.on(connection, mode="permissive"))
        assert [row.namespace for row in rows] == ["shop"]
        assert rows.scalar() == "shop"
        missing = await write(database, lambda connection: FIND.on(connection, namespace="bank"))
        assert (missing.first(), missing.scalar(), list(missing)) == (None, None, [])
        nothing = await write(
            database, lambda connection: RENAME.on(connection, of_namespace="bank", mode="explicit", version=2)
        )
        assert nothing.rowcount == 0


@pytest.mark.parametrize("write", [write_whole, write_step_by_step])
async def test_an_upsert_updates_what_it_names_and_no_more(
    tmp_path: Path, write: Callable[[Database, Work], Coroutine[Any, Any, Rows]]
) -> None:
    async with opened(tmp_path / "d") as core:
        database = core.store.database
        await write(database, lambda connection: REPLACE.on(connection, **ROW))
        await write(database, lambda connection: KEEP.on(connection, **{**ROW, "version": 7}))
        found = (await write(database, lambda connection: FIND.on(connection, namespace="shop"))).first()
        assert found.version == 1
        await write(database, lambda connection: REPLACE.on(connection, **{**ROW, "version": 8, "mode": "explicit"}))
        found = (await write(database, lambda connection: FIND.on(connection, namespace="shop"))).first()
        assert (found.version, found.mode) == (8, "permissive")


@pytest.mark.parametrize("write", [write_whole, write_step_by_step])
async def test_a_statement_is_executed_for_each_of_many_rows(
    tmp_path: Path, write: Callable[[Database, Work], Coroutine[Any, Any, Rows]]
) -> None:
    async def keep_each(connection: AsyncConnection) -> Rows:
        await KEEP.on_each(connection, [{**ROW, "namespace": name} for name in ("shop", "bank", "shop")])
        return await IN_MODE.on(connection, mode="permissive")

    async with opened(tmp_path / "d") as core:
        assert sorted(row.namespace for row in await write(core.store.database, keep_each)) == ["bank", "shop"]
