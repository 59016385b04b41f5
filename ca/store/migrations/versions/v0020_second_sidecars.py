"""Second sidecars: what tried to join under the name of one whose stream was open, and by which key that one joined."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns: no second sidecar is known, and no key."""
    op.add_column("sidecars", sa.Column("key_digest", sa.LargeBinary))
    op.add_column("sidecars", sa.Column("second_count", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("sidecars", sa.Column("second_at", sa.Double))
    op.add_column("sidecars", sa.Column("second_from", sa.Text, nullable=False, server_default=""))


def downgrade() -> None:
    """Forget them."""
    for name in ("second_from", "second_at", "second_count", "key_digest"):
        op.drop_column("sidecars", name)
