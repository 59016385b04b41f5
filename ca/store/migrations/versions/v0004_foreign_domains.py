"""Other trust domains, by whose roots foreign SPIFFE peers are known."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table; none is known at first."""
    op.create_table(
        "foreign_domains",
        sa.Column("trust_domain", sa.Text, primary_key=True),
        sa.Column("roots", sa.Text, nullable=False),
        sa.Column("changed", sa.Double, nullable=False),
    )


def downgrade() -> None:
    """Forget other trust domains."""
    op.drop_table("foreign_domains")
