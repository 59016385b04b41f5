"""Which batch of decisions was stored last from each sidecar: one whose acknowledgement was lost is sent again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; nothing is known of what came before."""
    op.add_column("sidecars", sa.Column("last_batch", sa.Text))


def downgrade() -> None:
    """Forget it: a batch that is sent again is stored again."""
    op.drop_column("sidecars", "last_batch")
