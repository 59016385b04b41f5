"""Programs that were seen, and those that were refused."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the two tables."""
    keys = ("namespace", "service_account", "program")
    op.create_table(
        "program_sightings",
        *(sa.Column(name, sa.Text, primary_key=True) for name in keys),
        sa.Column("last", sa.Double, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
    )
    op.create_index("ix_program_sightings_last", "program_sightings", ["last"])
    op.create_table(
        "program_refusals",
        *(sa.Column(name, sa.Text, primary_key=True) for name in keys),
        sa.Column("refused_by", sa.Text, nullable=False),
        sa.Column("refused", sa.Double, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
    )


def downgrade() -> None:
    """Forget them."""
    op.drop_table("program_refusals")
    op.drop_table("program_sightings")
