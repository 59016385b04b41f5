"""Enrolments whose answer was lost: which key spent a join token."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; tokens that were spent before belong to no key, so that none repeats their enrolment."""
    op.add_column("join_tokens", sa.Column("spent_by", sa.LargeBinary))


def downgrade() -> None:
    """Forget it."""
    op.drop_column("join_tokens", "spent_by")
