"""What approved programs may load."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; approvals that were made before say nothing about loaded code."""
    op.add_column("programs", sa.Column("code", sa.Text))


def downgrade() -> None:
    """Forget it: programs may load anything again."""
    op.drop_column("programs", "code")
