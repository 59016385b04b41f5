"""An upsert names its key and what it updates, in each database's words."""

from __future__ import annotations

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, Text
from sqlalchemy.dialects import postgresql, sqlite

from ca.store.engine.upsert import make_upsert

TABLE = Table(
    "things", MetaData(), Column("name", Text, primary_key=True), Column("size", Integer), Column("at", Integer)
)


@pytest.mark.parametrize("dialect", [sqlite, postgresql])
@pytest.mark.parametrize(
    ("update", "ends"),
    [
        (None, "ON CONFLICT (name) DO UPDATE SET size = excluded.size, at = excluded.at"),
        (("at",), "ON CONFLICT (name) DO UPDATE SET at = excluded.at"),
        ((), "ON CONFLICT (name) DO NOTHING"),
    ],
)
def test_all_but_the_key_is_updated_or_what_is_named_or_nothing(
    dialect: object, update: tuple[str, ...] | None, ends: str
) -> None:
    assert dialect in (sqlite, postgresql)
    statement = make_upsert(dialect.insert, TABLE, {"name": "a", "size": 1, "at": 2}, update=update)
    assert " ".join(str(statement.compile(dialect=dialect.dialect())).split()).endswith(ends)
