"""Workloads with a mode of their own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns. What a trial gives back of them is unknown for one that began before: nothing."""
    op.add_column("namespaces", sa.Column("workload_modes", sa.Text, nullable=False, server_default="[]"))
    op.add_column("mode_trials", sa.Column("workload_modes", sa.Text, nullable=True))


def downgrade() -> None:
    """Remove them; namespaces' modes count again for all of their workloads."""
    op.drop_column("mode_trials", "workload_modes")
    op.drop_column("namespaces", "workload_modes")
