"""The one collection of all tables, to which each package of the store adds its own, and the counters' table. Pure."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Integer, MetaData, Table, Text

metadata: Final = MetaData()
# SQLite counts rows only in a column of exactly this type.
RowId: Final = BigInteger().with_variant(Integer(), "sqlite")

counters: Final = Table(
    "counters",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
)
