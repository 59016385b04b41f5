"""What a workload was issued for one digest is found in the index of its certificates, not in each of their rows."""

from __future__ import annotations

from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None

_NAME = "ix_certificates_workload"
_COLUMNS = ["namespace", "service_account", "issued"]


def upgrade() -> None:
    """Make the index anew with the digest behind its columns: seconds for each million rows."""
    op.drop_index(_NAME, "certificates")
    op.create_index(_NAME, "certificates", [*_COLUMNS, "digest"])


def downgrade() -> None:
    """Make it as it was."""
    op.drop_index(_NAME, "certificates")
    op.create_index(_NAME, "certificates", _COLUMNS)
