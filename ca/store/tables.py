"""The tables, as the newest migration leaves them (a test compares both). Pure.

Serial numbers are hexadecimal text (they exceed 64 bits), times are seconds since the epoch, structures are JSON text.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    false,
    text,
)

from ca.store.audit.tables import audit_lines, audit_marks
from ca.store.drafts.tables import policy_drafts
from ca.store.edges.tables import edge_drafts, edge_hours, edge_reports, edges
from ca.store.engine.schema import RowId, counters, metadata
from ca.store.history.tables import mode_trials, namespace_generations
from ca.store.programs_seen.tables import program_refusals, program_sightings
from ca.store.renewal.tables import renewal_keys

__all__ = [
    "BUNDLE_SEQUENCE", "DENIED", "DIFFERS", "DRAFTED", "FOREIGN_CHANGES", "NAMESPACE_CHANGES", "READINESS", "REFUSED",
    "REGISTRATIONS", "TRUST_DOMAIN", "UNUSUAL", "WOULD_DENY", "audit_lines", "audit_marks", "authorities",
    "certificates", "counters", "decisions",
    "edge_drafts", "edge_hours", "edge_reports", "edges", "evicted_certificates",
    "evicted_sidecars", "foreign_domains",
    "installed_namespaces", "join_tokens", "journal", "metadata", "mode_trials", "namespace_generations", "namespaces",
    "policy_drafts", "program_refusals", "program_sightings", "programs", "renewal_keys", "replicas", "rotations",
    "settings", "sidecar_addresses", "sidecars", "workload_labels",
]  # fmt: skip

BUNDLE_SEQUENCE: Final = "bundle_sequence"
# Raised with every change of a namespace, and with every registration of a sidecar: what replicas look at.
NAMESPACE_CHANGES: Final = "namespace_changes"
REGISTRATIONS: Final = "registrations"
# Raised with every change of other trust domains' roots.
FOREIGN_CHANGES: Final = "foreign_changes"
TRUST_DOMAIN: Final = "trust_domain"
READINESS: Final = "readiness"
# When a backup took the store's place (``authority_records.py``).
RESTORED: Final = "restored"
# Sidecar images of the CA's list, and those that were in it (`ca/evidence/former_images.py`).
SIDECAR_IMAGES: Final = "sidecar_images"

# As an index's condition and a query's: SQLite uses such an index only for the very same text.
REFUSED: Final = text("(would_deny OR answer = 'deny')")
DRAFTED: Final = text("draft <> ''")
DENIED: Final = text("answer = 'deny'")
WOULD_DENY: Final = text("would_deny")
DIFFERS: Final = text("draft IN ('denied', 'allowed')")
# Most decisions have one of the other reasons, and would only make the index large and each of them dearer.
UNUSUAL: Final = text("reason NOT IN ('allow_rule', 'same_group')")

settings: Final = Table(
    "settings",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

authorities: Final = Table(
    "authorities",
    metadata,
    Column("authority_id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("phase", Text, nullable=False),
    Column("root_id", Text, nullable=False),
    Column("subject", Text, nullable=False, unique=True),
    Column("certificate", LargeBinary, nullable=False),
    Column("public_key_digest", Text, nullable=False),
    Column("sealed_key", LargeBinary, nullable=False),
    Column("not_before", Double, nullable=False),
    Column("not_after", Double, nullable=False),
    Column("created", Double, nullable=False),
    Column("prepared_sequence", BigInteger, nullable=False),
    Column("is_tainted", Boolean, nullable=False),
)

rotations: Final = Table(
    "rotations",
    metadata,
    Column("rotation_id", RowId, primary_key=True, autoincrement=True),
    Column("step", Text, nullable=False),
    Column("issuer_id", Text, nullable=False),
    Column("previous_id", Text, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("forced", Boolean, nullable=False),
    Column("started", Double, nullable=False),
    Column("changed", Double, nullable=False),
    Column("kind", Text, nullable=False, server_default="issuer"),
    Column("published", Double),
)

journal: Final = Table(
    "journal",
    metadata,
    Column("entry_id", RowId, primary_key=True, autoincrement=True),
    Column("time", Double, nullable=False),
    Column("event", Text, nullable=False),
    Column("rotation_id", BigInteger),
    Column("authority_id", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Index("ix_journal_time", "time", "entry_id"),
)

join_tokens: Final = Table(
    "join_tokens",
    metadata,
    Column("token_id", Text, primary_key=True),
    Column("secret_digest", LargeBinary, nullable=False),
    Column("namespace", Text, nullable=False),
    Column("service_account", Text, nullable=False),
    Column("addresses", Text, nullable=False),
    Column("labels", Text, nullable=False),
    Column("created", Double, nullable=False),
    Column("expires", Double, nullable=False),
    Column("spent", Double),
    Column("instance", Text, nullable=False),
    Column("root_pin", Text, nullable=False, server_default=""),
    Column("spent_by", LargeBinary),
    Index("ix_join_tokens_expires", "expires"),
)

sidecars: Final = Table(
    "sidecars",
    metadata,
    Column("instance", Text, primary_key=True),
    Column("namespace", Text, nullable=False),
    Column("service_account", Text, nullable=False),
    Column("allowed_addresses", Text, nullable=False),
    Column("labels", Text, nullable=False),
    Column("tunnel_port", Integer, nullable=False),
    Column("version", Text, nullable=False),
    Column("capture", Text, nullable=False),
    Column("joined", Double, nullable=False),
    Column("last_seen", Double, nullable=False),
    Column("connected", Boolean, nullable=False),
    Column("installed_sequence", BigInteger, nullable=False),
    Column("pod_uid", Text, nullable=False, server_default=""),
    Column("replica", Text, nullable=False, server_default=""),
    Column("last_batch", Text),
    Column("has_stopped", Boolean, nullable=False, server_default=false()),
    Column("clock_offset_s", Double),
    Column("key_digest", LargeBinary),
    Column("second_count", BigInteger, nullable=False, server_default="0"),
    Column("second_at", Double),
    Column("second_from", Text, nullable=False, server_default=""),
)

replicas: Final = Table(
    "replicas",
    metadata,
    Column("replica", Text, primary_key=True),
    Column("seen", Double, nullable=False),
)

sidecar_addresses: Final = Table(
    "sidecar_addresses",
    metadata,
    Column("address", Text, primary_key=True),
    Column("instance", Text, nullable=False),
    Index("ix_sidecar_addresses_instance", "instance"),
)

installed_namespaces: Final = Table(
    "installed_namespaces",
    metadata,
    Column("instance", Text, primary_key=True),
    Column("namespace", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
)

certificates: Final = Table(
    "certificates",
    metadata,
    Column("serial", Text, primary_key=True),
    Column("identity", Text, nullable=False),
    Column("namespace", Text, nullable=False),
    Column("service_account", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("authority_id", Text, nullable=False),
    Column("instance", Text, nullable=False),
    Column("issued", Double, nullable=False),
    Column("not_before", Double, nullable=False),
    Column("not_after", Double, nullable=False),
    Column("path", Text, nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("uid", BigInteger, nullable=False),
    Column("approved_by", Text, nullable=False),
    Column("digest", Text, nullable=False, server_default=""),
    Index("ix_certificates_not_after", "not_after", "authority_id"),
    Index("ix_certificates_digest", "digest", "issued"),
    Index("ix_certificates_authority", "authority_id", "issued"),
    Index("ix_certificates_instance", "instance", "not_after"),
    Index("ix_certificates_issued", "issued"),
    # The digest is only compared there: else each certificate of a workload is read that never had a program.
    Index("ix_certificates_workload", "namespace", "service_account", "issued", "digest"),
)

namespaces: Final = Table(
    "namespaces",
    metadata,
    Column("namespace", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("mode", Text, nullable=False),
    Column("has_policy", Boolean, nullable=False),
    Column("group_label", Text, nullable=False),
    Column("rules", Text, nullable=False),
    Column("requires", Text, nullable=False, server_default="[]"),
    Column("workload_modes", Text, nullable=False, server_default="[]"),
)

programs: Final = Table(
    "programs",
    metadata,
    Column("namespace", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("service_account", Text, nullable=False),
    Column("programs", Text, nullable=False),
    Column("weak", Boolean, nullable=False),
    Column("approved_by", Text, nullable=False),
    Column("approved", Double, nullable=False),
    Column("code", Text),
)

foreign_domains: Final = Table(
    "foreign_domains",
    metadata,
    Column("trust_domain", Text, primary_key=True),
    Column("roots", Text, nullable=False),
    Column("changed", Double, nullable=False),
)

workload_labels: Final = Table(
    "workload_labels",
    metadata,
    Column("namespace", Text, primary_key=True),
    Column("service_account", Text, primary_key=True),
    Column("labels", Text, nullable=False),
)

decisions: Final = Table(
    "decisions",
    metadata,
    Column("decision_id", RowId, primary_key=True, autoincrement=True),
    Column("time", Double, nullable=False),
    Column("namespace", Text, nullable=False),
    Column("sidecar", Text, nullable=False),
    Column("answer", Text, nullable=False),
    Column("would_deny", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("source_workload", Text, nullable=False),
    Column("destination_workload", Text, nullable=False),
    Column("source_program", Text, nullable=False),
    Column("destination_program", Text, nullable=False),
    Column("port", Integer, nullable=False),
    Column("connection", Text, nullable=False),
    Column("count", Integer, nullable=False),
    Column("record", Text, nullable=False),
    Column("draft", Text, nullable=False, server_default=""),
    Index("ix_decisions_time", "time", "decision_id"),
    Index("ix_decisions_namespace_time", "namespace", "time", "decision_id"),
    Index("ix_decisions_source", "source_workload", "time", "decision_id"),
    Index("ix_decisions_destination", "destination_workload", "time", "decision_id"),
    Index(
        "ix_decisions_refused",
        "namespace",
        "time",
        "decision_id",
        sqlite_where=REFUSED,
        postgresql_where=REFUSED,
    ),
    Index(
        "ix_decisions_draft",
        "namespace",
        "time",
        "decision_id",
        sqlite_where=DRAFTED,
        postgresql_where=DRAFTED,
    ),
    *(
        Index(f"ix_decisions_{name}", "time", "decision_id", sqlite_where=where, postgresql_where=where)
        for name, where in (("denied", DENIED), ("would_deny", WOULD_DENY), ("differs", DIFFERS))
    ),
    Index("ix_decisions_reason", "reason", "time", "decision_id", sqlite_where=UNUSUAL, postgresql_where=UNUSUAL),
    # An ID is never given twice, so that who follows the log by ID misses nothing after a pruning.
    sqlite_autoincrement=True,
)

evicted_sidecars: Final = Table(
    "evicted_sidecars",
    metadata,
    Column("instance", Text, primary_key=True),
    Column("pod_uid", Text, nullable=False),
    Column("evicted", Double, nullable=False),
)

# By the number of one, or all of a sidecar: what follows ``serial:`` in a trust bundle, or its whole entry.
evicted_certificates: Final = Table(
    "evicted_certificates",
    metadata,
    Column("serial", Text, primary_key=True),
    Column("not_after", Double, nullable=False),
    Index("ix_evicted_certificates_not_after", "not_after"),
)
