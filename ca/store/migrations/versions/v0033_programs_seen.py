"""An index by which a namespace's programs are found, seen last first, without sorting all that it has."""

from __future__ import annotations

from alembic import op

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make it: a second for each million rows, in which the CA hasn't started."""
    op.create_index("ix_program_sightings_namespace", "program_sightings", ["namespace", "last"])


def downgrade() -> None:
    """Drop it."""
    op.drop_index("ix_program_sightings_namespace", "program_sightings")
