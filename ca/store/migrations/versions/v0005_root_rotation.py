"""Rotations of the root: a rotation's kind, when its root was published, and which root a join token pins."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns. Until now there was one root, so that every token pins that one."""
    op.add_column("rotations", sa.Column("kind", sa.Text, nullable=False, server_default="issuer"))
    op.add_column("rotations", sa.Column("published", sa.Double))
    op.add_column("join_tokens", sa.Column("root_pin", sa.Text, nullable=False, server_default=""))
    op.execute(
        "UPDATE join_tokens SET root_pin = COALESCE("
        "(SELECT public_key_digest FROM authorities WHERE kind = 'root' AND phase = 'active'), '')"
    )


def downgrade() -> None:
    """Forget them."""
    op.drop_column("join_tokens", "root_pin")
    op.drop_column("rotations", "published")
    op.drop_column("rotations", "kind")
