"""The tables of edges, as the newest migration leaves them. Pure.

An edge's description is stored once and its numbers for each hour apart, so that a window of hours is a sum over small
rows. Hours are counted since the epoch: ``time // 3600``.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Boolean, Column, Double, Index, Integer, Table, Text, text

from ca.store.engine.schema import RowId, metadata

edges: Final = Table(
    "edges",
    metadata,
    Column("edge_id", RowId, primary_key=True, autoincrement=True),
    Column("digest", Text, nullable=False, unique=True),
    Column("source_namespace", Text, nullable=False),
    Column("destination_namespace", Text, nullable=False),
    Column("last_hour", Integer, nullable=False),
    Column("description", Text, nullable=False),
    Column("evidence", Text, nullable=False),
    # The first hour that was ever added; 0: it isn't known.
    Column("first_hour", Integer, nullable=False, server_default="0"),
    Index("ix_edges_source", "source_namespace", "last_hour", "first_hour"),
    Index("ix_edges_destination", "destination_namespace", "last_hour", "first_hour"),
    Index("ix_edges_last_hour", "last_hour"),
    # An ID is never given twice: hours that outlive their edge for a moment must not become another's.
    sqlite_autoincrement=True,
)

# On PostgreSQL a partition for each day, dropped whole. On SQLite clustered by its key.
edge_hours: Final = Table(
    "edge_hours",
    metadata,
    Column("edge_id", BigInteger, primary_key=True, autoincrement=False),
    Column("hour", Integer, primary_key=True, autoincrement=False),
    Column("opened", BigInteger, nullable=False),
    Column("ended", BigInteger, nullable=False),
    Column("bytes_sent", BigInteger, nullable=False),
    Column("bytes_received", BigInteger, nullable=False),
    Column("first", Double, nullable=False),
    Column("last", Double, nullable=False),
    Index("ix_edge_hours_hour", "hour"),
    sqlite_with_rowid=False,
    postgresql_partition_by="RANGE (hour)",
)

# What drafts said of an edge's connections since they were written; ``digest`` is empty where they change nothing.
edge_drafts: Final = Table(
    "edge_drafts",
    metadata,
    Column("draft", Text, primary_key=True),
    Column("edge_id", BigInteger, primary_key=True, autoincrement=False),
    Column("digest", Text, primary_key=True),
    Column("verdict", Text, nullable=False),
    Column("is_own", Boolean, nullable=False),
    Column("opened", BigInteger, nullable=False),
    Column("ended", BigInteger, nullable=False),
    Column("first", Double, nullable=False),
    Column("last", Double, nullable=False),
    sqlite_with_rowid=False,
)

edge_reports: Final = Table(
    "edge_reports",
    metadata,
    Column("instance", Text, primary_key=True),
    Column("hour", Integer, primary_key=True, autoincrement=False),
    Column("namespace", Text, nullable=False),
    Column("service_account", Text, nullable=False),
    Column("records", BigInteger, nullable=False),
    Column("lost", BigInteger, nullable=False),
    Column("starts", BigInteger, nullable=False),
    Column("new_edges", BigInteger, nullable=False),
    Column("first", Double, nullable=False),
    Column("last", Double, nullable=False),
    Index("ix_edge_reports_namespace", "namespace", "hour"),
    Index("ix_edge_reports_hour", "hour"),
    Index(
        "ix_edge_reports_lost",
        "hour",
        "namespace",
        "service_account",
        sqlite_where=text("lost > 0"),
        postgresql_where=text("lost > 0"),
    ),
    Index(
        "ix_edge_reports_lost_there",
        "namespace",
        "hour",
        sqlite_where=text("lost > 0"),
        postgresql_where=text("lost > 0"),
    ),
)
