"""Sidecars of pods: which pod a sidecar belongs to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the pod's UID; empty for a sidecar that joined by a token of ours."""
    op.add_column("sidecars", sa.Column("pod_uid", sa.Text, nullable=False, server_default=""))


def downgrade() -> None:
    """Forget which pods there were."""
    op.drop_column("sidecars", "pod_uid")
