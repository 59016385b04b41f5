"""Indexes, and an edge's first hour, by which a window of time is found without what is before or behind it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None

# Name, table, columns before and after.
_WIDENED = (
    ("ix_edges_source", "edges", ["source_namespace", "last_hour"], ["first_hour"]),
    ("ix_edges_destination", "edges", ["destination_namespace", "last_hour"], ["first_hour"]),
    ("ix_audit_lines_time", "audit_lines", ["time"], ["sequence"]),
    ("ix_renewal_keys_spent", "renewal_keys", ["spent"], ["instance"]),
)


def upgrade() -> None:
    """Make them: some seconds for each million rows, in which the CA hasn't started.

    Of edges that are there the first hour isn't looked for: they are forgotten, or looked at in vain, as before.
    """
    op.add_column("edges", sa.Column("first_hour", sa.Integer, nullable=False, server_default="0"))
    for name, table, columns, more in _WIDENED:
        op.drop_index(name, table)
        op.create_index(name, table, columns + more)
    op.create_index("ix_journal_time", "journal", ["time", "entry_id"])
    lost = sa.text("lost > 0")
    op.create_index(
        "ix_edge_reports_lost_there", "edge_reports", ["namespace", "hour"], sqlite_where=lost, postgresql_where=lost
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_edge_reports_lost_there", "edge_reports")
    op.drop_index("ix_journal_time", "journal")
    for name, table, columns, _ in _WIDENED:
        op.drop_index(name, table)
        op.create_index(name, table, columns)
    op.drop_column("edges", "first_hour")
