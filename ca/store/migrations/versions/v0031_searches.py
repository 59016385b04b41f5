"""Indexes for what is searched, or forgotten, in tables of millions of rows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None

_INDEXES = (
    ("ix_edge_hours_hour", "edge_hours", ["hour"]),
    ("ix_join_tokens_expires", "join_tokens", ["expires"]),
)
_PARTIAL = (
    ("ix_decisions_denied", ["time", "decision_id"], "answer = 'deny'"),
    ("ix_decisions_would_deny", ["time", "decision_id"], "would_deny"),
    ("ix_decisions_differs", ["time", "decision_id"], "draft IN ('denied', 'allowed')"),
    ("ix_decisions_reason", ["reason", "time", "decision_id"], "reason NOT IN ('allow_rule', 'same_group')"),
)


def upgrade() -> None:
    """Make them: some seconds for each million rows, in which the CA hasn't started."""
    for name, table, columns in _INDEXES:
        op.create_index(name, table, columns)
    for name, columns, condition in _PARTIAL:
        where = sa.text(condition)
        op.create_index(name, "decisions", columns, sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    """Drop them."""
    for name, _, _ in _PARTIAL:
        op.drop_index(name, "decisions")
    for name, table, _ in _INDEXES:
        op.drop_index(name, table)
