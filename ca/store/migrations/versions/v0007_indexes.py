"""Indexes by which no query's time grows with rows that it doesn't ask for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_REFUSED = sa.text("(would_deny OR answer = 'deny')")


def upgrade() -> None:
    """Make them; each that is a prefix of a new one goes."""
    op.drop_index("ix_certificates_not_after", "certificates")
    op.create_index("ix_certificates_not_after", "certificates", ["not_after", "authority_id"])
    op.create_index("ix_certificates_instance", "certificates", ["instance", "not_after"])
    op.create_index("ix_certificates_issued", "certificates", ["issued"])
    op.create_index("ix_certificates_workload", "certificates", ["namespace", "service_account", "issued"])
    op.drop_index("ix_decisions_time", "decisions")
    op.drop_index("ix_decisions_namespace_time", "decisions")
    op.create_index("ix_decisions_time", "decisions", ["time", "decision_id"])
    op.create_index("ix_decisions_namespace_time", "decisions", ["namespace", "time", "decision_id"])
    op.create_index("ix_decisions_source", "decisions", ["source_workload", "time", "decision_id"])
    op.create_index("ix_decisions_destination", "decisions", ["destination_workload", "time", "decision_id"])
    op.create_index(
        "ix_decisions_refused",
        "decisions",
        ["namespace", "time", "decision_id"],
        sqlite_where=_REFUSED,
        postgresql_where=_REFUSED,
    )


def downgrade() -> None:
    """Leave those of before."""
    for name in ("source", "destination", "refused", "time", "namespace_time"):
        op.drop_index(f"ix_decisions_{name}", "decisions")
    for name in ("not_after", "instance", "issued", "workload"):
        op.drop_index(f"ix_certificates_{name}", "certificates")
    op.create_index("ix_decisions_time", "decisions", ["time"])
    op.create_index("ix_decisions_namespace_time", "decisions", ["namespace", "time"])
    op.create_index("ix_certificates_not_after", "certificates", ["not_after"])
