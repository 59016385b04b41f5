"""Old rows go in portions, the oldest first."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import insert, select

from ca.store.engine import pruning
from ca.store.tables import program_sightings, renewal_keys
from tests.ca.founded import opened


async def test_rows_go_in_portions_the_oldest_first(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "PRUNED_AT_ONCE", 2)
    keys, seen = renewal_keys, program_sightings
    async with opened(tmp_path / "d") as core:
        database = core.store.database
        assert database.is_sqlite == (backend == "sqlite")
        async with database.writing() as connection:
            one = {"instance": "a", "made": 1.0, "following": ""}
            spent = {"a": 4.0, "b": 1.0, "c": 2.0, "d": 3.0, "e": None}
            await connection.execute(insert(keys), [{**one, "digest": each, "spent": spent[each]} for each in spent])
            two = {"namespace": "shop", "service_account": "web", "record": ""}
            await connection.execute(insert(seen), [{**two, "program": str(n), "last": float(n)} for n in range(4)])

        async def list_left() -> list[list[str]]:
            async with database.reading() as connection:
                queries = (select(keys.c.digest).order_by(keys.c.digest), select(seen.c.program).order_by(seen.c.last))
                return [list(await connection.scalars(query)) for query in queries]

        assert await pruning.delete_before(database, keys, keys.c.spent, 4.0) == 2
        assert await pruning.delete_before(database, seen, seen.c.last, 3.0) == 2  # Of a key of three columns.
        assert await list_left() == [["a", "d", "e"], ["2", "3"]]
        assert await pruning.delete_before(database, keys, keys.c.spent, 4.0) == 1
        assert await pruning.delete_before(database, seen, seen.c.last, 3.0) == 1
        assert await list_left() == [["a", "e"], ["3"]]
        assert await pruning.delete_before(database, keys, keys.c.spent, 4.0) == 0
