"""The one collection of all tables: each package of the store adds its own to it. Pure."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Integer, MetaData

metadata: Final = MetaData()
# SQLite counts rows only in a column of exactly this type.
RowId: Final = BigInteger().with_variant(Integer(), "sqlite")
