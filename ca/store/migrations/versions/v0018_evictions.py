"""Evictions: sidecars that may not come back, and their certificates that are distrusted until they end."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables, empty."""
    op.create_table(
        "evicted_sidecars",
        sa.Column("instance", sa.Text, primary_key=True),
        sa.Column("pod_uid", sa.Text, nullable=False),
        sa.Column("evicted", sa.Double, nullable=False),
    )
    op.create_table(
        "evicted_certificates",
        sa.Column("serial", sa.Text, primary_key=True),
        sa.Column("not_after", sa.Double, nullable=False),
    )
    op.create_index("ix_evicted_certificates_not_after", "evicted_certificates", ["not_after"])


def downgrade() -> None:
    """Forget them."""
    op.drop_table("evicted_certificates")
    op.drop_table("evicted_sidecars")
