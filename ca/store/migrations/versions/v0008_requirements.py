"""What a namespace requires of every connection to its workloads."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column. Until now nothing was required."""
    op.add_column("namespaces", sa.Column("requires", sa.Text, nullable=False, server_default="[]"))


def downgrade() -> None:
    """Forget it."""
    op.drop_column("namespaces", "requires")
