"""Draft policies that a cluster's objects say, and drafts of workloads' modes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns: the drafts of before were written by commands, and leave workloads' modes as they are."""
    op.add_column("policy_drafts", sa.Column("workload_modes", sa.Text))
    op.add_column("policy_drafts", sa.Column("is_object", sa.Boolean, nullable=False, server_default=sa.false()))


def downgrade() -> None:
    """Drop drafts of objects, which would be taken for those of commands, and the columns."""
    op.execute("DELETE FROM policy_drafts WHERE is_object")
    op.drop_column("policy_drafts", "is_object")
    op.drop_column("policy_drafts", "workload_modes")
