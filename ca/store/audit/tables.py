"""The audit log's tables, as the newest migration leaves them. Pure."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Double, Index, Table, Text

from ca.store.engine.schema import metadata

audit_lines: Final = Table(
    "audit_lines",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("time", Double, nullable=False),
    Column("digest", Text, nullable=False),
    Column("line", Text, nullable=False),
    Index("ix_audit_lines_time", "time", "sequence"),
)

# Two rows: the last line that was written, and the last that was pruned.
audit_marks: Final = Table(
    "audit_marks",
    metadata,
    Column("name", Text, primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("digest", Text, nullable=False),
)
