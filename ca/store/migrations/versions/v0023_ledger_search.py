"""What the ledger is searched by: a program's digest, and an authority."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the digest, of what was issued too: it stands in the identity."""
    op.add_column("certificates", sa.Column("digest", sa.Text, nullable=False, server_default=""))
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    digest = (
        "substr(identity, instr(identity, '/sha256/') + 8, 64)"
        if is_sqlite
        else "substr(identity, strpos(identity, '/sha256/') + 8, 64)"
    )
    op.execute(f"UPDATE certificates SET digest = {digest} WHERE identity LIKE '%/sha256/%'")
    op.create_index("ix_certificates_digest", "certificates", ["digest", "issued"])
    op.create_index("ix_certificates_authority", "certificates", ["authority_id", "issued"])


def downgrade() -> None:
    """Forget it."""
    op.drop_index("ix_certificates_authority", "certificates")
    op.drop_index("ix_certificates_digest", "certificates")
    op.drop_column("certificates", "digest")
