"""The first release's tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_RowId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make every table."""
    op.create_table(
        "counters",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "settings",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.create_table(
        "authorities",
        sa.Column("authority_id", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("phase", sa.Text, nullable=False),
        sa.Column("root_id", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False, unique=True),
        sa.Column("certificate", sa.LargeBinary, nullable=False),
        sa.Column("public_key_digest", sa.Text, nullable=False),
        sa.Column("sealed_key", sa.LargeBinary, nullable=False),
        sa.Column("not_before", sa.Double, nullable=False),
        sa.Column("not_after", sa.Double, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("prepared_sequence", sa.BigInteger, nullable=False),
        sa.Column("is_tainted", sa.Boolean, nullable=False),
    )
    op.create_table(
        "rotations",
        sa.Column("rotation_id", _RowId, primary_key=True, autoincrement=True),
        sa.Column("step", sa.Text, nullable=False),
        sa.Column("issuer_id", sa.Text, nullable=False),
        sa.Column("previous_id", sa.Text, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("forced", sa.Boolean, nullable=False),
        sa.Column("started", sa.Double, nullable=False),
        sa.Column("changed", sa.Double, nullable=False),
    )
    op.create_table(
        "journal",
        sa.Column("entry_id", _RowId, primary_key=True, autoincrement=True),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("rotation_id", sa.BigInteger),
        sa.Column("authority_id", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )
    op.create_table(
        "join_tokens",
        sa.Column("token_id", sa.Text, primary_key=True),
        sa.Column("secret_digest", sa.LargeBinary, nullable=False),
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("service_account", sa.Text, nullable=False),
        sa.Column("addresses", sa.Text, nullable=False),
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
        sa.Column("spent", sa.Double),
        sa.Column("instance", sa.Text, nullable=False),
    )
    op.create_table(
        "sidecars",
        sa.Column("instance", sa.Text, primary_key=True),
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("service_account", sa.Text, nullable=False),
        sa.Column("allowed_addresses", sa.Text, nullable=False),
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("tunnel_port", sa.Integer, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("capture", sa.Text, nullable=False),
        sa.Column("joined", sa.Double, nullable=False),
        sa.Column("last_seen", sa.Double, nullable=False),
        sa.Column("connected", sa.Boolean, nullable=False),
        sa.Column("installed_sequence", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "sidecar_addresses",
        sa.Column("address", sa.Text, primary_key=True),
        sa.Column("instance", sa.Text, nullable=False),
    )
    op.create_index("ix_sidecar_addresses_instance", "sidecar_addresses", ["instance"])
    op.create_table(
        "installed_namespaces",
        sa.Column("instance", sa.Text, primary_key=True),
        sa.Column("namespace", sa.Text, primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "certificates",
        sa.Column("serial", sa.Text, primary_key=True),
        sa.Column("identity", sa.Text, nullable=False),
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("service_account", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("authority_id", sa.Text, nullable=False),
        sa.Column("instance", sa.Text, nullable=False),
        sa.Column("issued", sa.Double, nullable=False),
        sa.Column("not_before", sa.Double, nullable=False),
        sa.Column("not_after", sa.Double, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("pid", sa.BigInteger, nullable=False),
        sa.Column("uid", sa.BigInteger, nullable=False),
        sa.Column("approved_by", sa.Text, nullable=False),
    )
    op.create_index("ix_certificates_not_after", "certificates", ["not_after"])
    op.create_table(
        "namespaces",
        sa.Column("namespace", sa.Text, primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("has_policy", sa.Boolean, nullable=False),
        sa.Column("group_label", sa.Text, nullable=False),
        sa.Column("rules", sa.Text, nullable=False),
    )
    op.create_table(
        "programs",
        sa.Column("namespace", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("service_account", sa.Text, nullable=False),
        sa.Column("programs", sa.Text, nullable=False),
        sa.Column("weak", sa.Boolean, nullable=False),
        sa.Column("approved_by", sa.Text, nullable=False),
        sa.Column("approved", sa.Double, nullable=False),
    )
    op.create_table(
        "workload_labels",
        sa.Column("namespace", sa.Text, primary_key=True),
        sa.Column("service_account", sa.Text, primary_key=True),
        sa.Column("labels", sa.Text, nullable=False),
    )
    op.create_table(
        "decisions",
        sa.Column("decision_id", _RowId, primary_key=True, autoincrement=True),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("sidecar", sa.Text, nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("would_deny", sa.Boolean, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("source_workload", sa.Text, nullable=False),
        sa.Column("destination_workload", sa.Text, nullable=False),
        sa.Column("source_program", sa.Text, nullable=False),
        sa.Column("destination_program", sa.Text, nullable=False),
        sa.Column("port", sa.Integer, nullable=False),
        sa.Column("connection", sa.Text, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_decisions_namespace_time", "decisions", ["namespace", "time"])
    op.create_index("ix_decisions_time", "decisions", ["time"])


def downgrade() -> None:
    """Drop every table."""
    op.drop_table("counters")
    op.drop_table("settings")
    op.drop_table("authorities")
    op.drop_table("rotations")
    op.drop_table("journal")
    op.drop_table("join_tokens")
    op.drop_table("sidecars")
    op.drop_table("sidecar_addresses")
    op.drop_table("installed_namespaces")
    op.drop_table("certificates")
    op.drop_table("namespaces")
    op.drop_table("programs")
    op.drop_table("workload_labels")
    op.drop_table("decisions")
