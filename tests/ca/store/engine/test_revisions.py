"""The tables' versions (``ca.store.engine.revisions``)."""

from __future__ import annotations

from pathlib import Path

from ca.store.engine.database import Database
from ca.store.engine.revisions import list_revisions, read_revision, upgrade


async def test_a_database_comes_to_any_known_revision_and_says_which(tmp_path: Path) -> None:
    database = await Database.make(tmp_path)
    try:
        async with database.writing() as connection:
            assert await connection.run_sync(read_revision) == ""
            await connection.run_sync(upgrade, "0003")
            assert await connection.run_sync(read_revision) == "0003"
            await connection.run_sync(upgrade)
            newest = await connection.run_sync(read_revision)
    finally:
        await database.close()
    assert {"0001", "0003", newest} <= list_revisions()
