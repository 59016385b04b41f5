"""The store's one door. I/O."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ca.store.records import (
    AuthorityRecord,
    CauseCount,
    CertificateRecord,
    DecisionFilter,
    JoinGrant,
    JoinTokenRecord,
    JournalEntry,
    ProgramRecord,
    RotationRecord,
    SidecarRecord,
    StoredDecision,
)
from shared.model.decision import DecisionRecord
from shared.model.identity import Workload
from shared.model.messages import Registration
from shared.model.policy import Mode, NamespaceState, Rule


class Store:
    """SIGNATURES ONLY FOR NOW. Every method raises UnavailableError when the database fails."""

    @classmethod
    async def open(cls, url: str | Path, *, trust_domain: str) -> Store:
        """Open (a data directory's Path: its touchmark.db; or an SQLAlchemy URL), migrate, and check the trust domain."""
        raise NotImplementedError

    async def close(self) -> None: ...
    async def check(self) -> None:
        """Write and read one row: for readiness. Raises UnavailableError."""

    trust_domain: str

    # join tokens
    async def create_join_token(
        self,
        *,
        workload: Workload,
        addresses: Sequence[str],
        labels: dict[str, str],
        expires: float,
        now: float,
    ) -> tuple[JoinTokenRecord, str]:
        """-> (record, secret); the secret is never seen again."""
        raise NotImplementedError

    async def spend_join_token(self, *, token_id: str, secret: str, instance: str, now: float) -> JoinGrant:
        """Atomic. RefusedError: unknown, wrong secret, expired, spent. Also inserts the sidecar."""
        raise NotImplementedError

    async def list_join_tokens(self) -> list[JoinTokenRecord]:
        raise NotImplementedError

    # sidecars
    async def register_sidecar(self, grant: JoinGrant, registration: Registration, *, now: float) -> SidecarRecord:
        """Upsert; RefusedError when addresses exceed the grant; marks connected. An address moves to its last
        registrant only within the same workload, else ConflictError while the other one is live."""
        raise NotImplementedError

    async def mark_seen(self, instance: str, *, connected: bool, now: float) -> None: ...
    async def disconnect_all(self) -> None:
        """At start: no stream is open."""

    async def mark_bundle_installed(self, instance: str, sequence: int) -> None: ...
    async def mark_namespace_installed(self, instance: str, namespace: str, version: int) -> None: ...
    async def get_sidecar(self, instance: str) -> SidecarRecord | None:
        raise NotImplementedError

    async def list_sidecars(self) -> list[SidecarRecord]:
        raise NotImplementedError

    async def list_live_sidecars(self, *, now: float) -> list[SidecarRecord]:
        """Stream open, or a certificate unexpired in the ledger."""
        raise NotImplementedError

    async def get_sidecar_at(self, address: str) -> SidecarRecord | None:
        raise NotImplementedError

    # ledger
    async def record_certificates(self, records: Sequence[CertificateRecord]) -> None: ...
    async def record_certificate(self, record: CertificateRecord) -> None:
        """Group-committed: returns once the line is durable."""

    async def get_certificate(self, serial: int) -> CertificateRecord | None:
        raise NotImplementedError

    async def list_certificates(
        self, *, alive_at: float | None = None, workload: Workload | None = None, limit: int = 1000
    ) -> list[CertificateRecord]:
        raise NotImplementedError

    async def count_alive(self, *, now: float) -> dict[str, int]:
        """By authority_id."""
        raise NotImplementedError

    async def prune_certificates(self, *, expired_before: float) -> int:
        raise NotImplementedError

    # namespaces
    async def get_namespace_state(self, namespace: str) -> NamespaceState:
        raise NotImplementedError

    async def list_namespaces(self) -> list[NamespaceState]:
        raise NotImplementedError

    async def set_mode(self, namespace: str, mode: Mode, *, expected_version: int | None = None) -> NamespaceState:
        """ConflictError when the version is another one."""
        raise NotImplementedError

    async def put_policy(
        self, namespace: str, *, rules: Sequence[Rule], group_label: str = "", mode: Mode | None = None
    ) -> NamespaceState:
        """mode None keeps the present one."""
        raise NotImplementedError

    async def delete_policy(self, namespace: str) -> NamespaceState:
        """NotFoundError. Rules and group label go; the mode stays (nothing ever becomes more permissive by itself)."""
        raise NotImplementedError

    async def put_program(self, record: ProgramRecord) -> NamespaceState:
        raise NotImplementedError

    async def delete_program(self, namespace: str, name: str) -> NamespaceState:
        raise NotImplementedError

    async def get_program(self, namespace: str, name: str) -> ProgramRecord | None:
        raise NotImplementedError

    async def list_programs(self, namespace: str = "") -> list[ProgramRecord]:
        raise NotImplementedError

    # authorities, rotation, journal, bundle sequence: used through ca.authority and ca.rotation
    async def list_authorities(self) -> list[AuthorityRecord]:
        raise NotImplementedError

    async def get_bundle_sequence(self) -> int:
        raise NotImplementedError

    async def get_rotation(self) -> RotationRecord | None:
        """The last one, finished or not."""
        raise NotImplementedError

    async def list_journal(self, *, limit: int = 100) -> list[JournalEntry]:
        raise NotImplementedError

    # decisions
    async def insert_decisions(self, records: Sequence[DecisionRecord]) -> int:
        """-> the last decision_id."""
        raise NotImplementedError

    async def query_decisions(self, wanted: DecisionFilter) -> list[StoredDecision]:
        raise NotImplementedError

    async def count_causes(self, namespace: str, *, since: float) -> list[CauseCount]:
        """Denied or would_deny, grouped; most frequent first."""
        raise NotImplementedError

    async def list_reporting_sidecars(self, namespace: str, *, since: float) -> frozenset[str]:
        raise NotImplementedError

    async def prune_decisions(self, *, max_age_s: float, max_rows: int, now: float) -> int:
        raise NotImplementedError
