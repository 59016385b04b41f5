"""Several replicas on one database: which of them holds a sidecar's stream, and which are alive."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the replica of each stream; empty for what an older version wrote. And the replicas' signs of life."""
    op.add_column("sidecars", sa.Column("replica", sa.Text, nullable=False, server_default=""))
    op.create_table(
        "replicas",
        sa.Column("replica", sa.Text, primary_key=True),
        sa.Column("seen", sa.Double, nullable=False),
    )


def downgrade() -> None:
    """Forget replicas."""
    op.drop_table("replicas")
    op.drop_column("sidecars", "replica")
