"""Sidecars that stopped properly: their addresses are free for others at once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; of those that ended before nothing is known."""
    op.add_column("sidecars", sa.Column("has_stopped", sa.Boolean, nullable=False, server_default=sa.false()))


def downgrade() -> None:
    """Forget it."""
    op.drop_column("sidecars", "has_stopped")
