"""Renewal keys: by which sidecars outside Kubernetes come back after an outage."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table: no sidecar has such a key yet."""
    op.create_table(
        "renewal_keys",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("instance", sa.Text, nullable=False),
        sa.Column("made", sa.Double, nullable=False),
        sa.Column("spent", sa.Double),
        sa.Column("following", sa.Text, nullable=False),
    )
    op.create_index("ix_renewal_keys_instance", "renewal_keys", ["instance"])
    op.create_index("ix_renewal_keys_spent", "renewal_keys", ["spent"])


def downgrade() -> None:
    """Forget them."""
    op.drop_table("renewal_keys")
