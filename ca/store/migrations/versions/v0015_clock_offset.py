"""By how much each sidecar's clock differs from the CA's."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; it is filled when a sidecar opens its next stream."""
    op.add_column("sidecars", sa.Column("clock_offset_s", sa.Double))


def downgrade() -> None:
    """Forget it."""
    op.drop_column("sidecars", "clock_offset_s")
