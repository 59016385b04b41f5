"""Draft policies, and how their verdicts compare with what happened."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

_DRAFTED = sa.text("draft <> ''")


def upgrade() -> None:
    """Make the table, the column and its index."""
    op.create_table(
        "policy_drafts",
        sa.Column("namespace", sa.Text, primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("mode", sa.Text),
        sa.Column("group_label", sa.Text, nullable=False),
        sa.Column("rules", sa.Text, nullable=False),
        sa.Column("requires", sa.Text, nullable=False),
        sa.Column("written", sa.Double, nullable=False),
    )
    op.add_column("decisions", sa.Column("draft", sa.Text, nullable=False, server_default=""))
    op.create_index(
        "ix_decisions_draft",
        "decisions",
        ["namespace", "time", "decision_id"],
        sqlite_where=_DRAFTED,
        postgresql_where=_DRAFTED,
    )


def downgrade() -> None:
    """Forget them."""
    op.drop_index("ix_decisions_draft", "decisions")
    op.drop_column("decisions", "draft")
    op.drop_table("policy_drafts")
