"""Edges: who talked to whom, hour by hour, and what the sidecars reported of it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables, empty: edges are computed from what arrives from now on."""
    op.create_table(
        "edges",
        sa.Column("edge_id", _ROW_ID, primary_key=True, autoincrement=True),
        sa.Column("digest", sa.Text, nullable=False, unique=True),
        sa.Column("source_namespace", sa.Text, nullable=False),
        sa.Column("destination_namespace", sa.Text, nullable=False),
        sa.Column("last_hour", sa.Integer, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("evidence", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_edges_source", "edges", ["source_namespace", "last_hour"])
    op.create_index("ix_edges_destination", "edges", ["destination_namespace", "last_hour"])
    op.create_index("ix_edges_last_hour", "edges", ["last_hour"])
    op.create_table(
        "edge_hours",
        sa.Column("edge_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("hour", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("opened", sa.BigInteger, nullable=False),
        sa.Column("ended", sa.BigInteger, nullable=False),
        sa.Column("bytes_sent", sa.BigInteger, nullable=False),
        sa.Column("bytes_received", sa.BigInteger, nullable=False),
        sa.Column("first", sa.Double, nullable=False),
        sa.Column("last", sa.Double, nullable=False),
        sqlite_with_rowid=False,
        postgresql_partition_by="RANGE (hour)",
    )
    op.create_table(
        "edge_reports",
        sa.Column("instance", sa.Text, primary_key=True),
        sa.Column("hour", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("service_account", sa.Text, nullable=False),
        sa.Column("records", sa.BigInteger, nullable=False),
        sa.Column("lost", sa.BigInteger, nullable=False),
        sa.Column("starts", sa.BigInteger, nullable=False),
        sa.Column("new_edges", sa.BigInteger, nullable=False),
        sa.Column("first", sa.Double, nullable=False),
        sa.Column("last", sa.Double, nullable=False),
    )
    op.create_index("ix_edge_reports_namespace", "edge_reports", ["namespace", "hour"])
    op.create_index("ix_edge_reports_hour", "edge_reports", ["hour"])
    op.create_index(
        "ix_edge_reports_lost",
        "edge_reports",
        ["hour", "namespace", "service_account"],
        sqlite_where=sa.text("lost > 0"),
        postgresql_where=sa.text("lost > 0"),
    )


def downgrade() -> None:
    """Forget them."""
    for name in ("edge_reports", "edge_hours", "edges"):
        op.drop_table(name)
