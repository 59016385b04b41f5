"""What the store gives and takes: frozen values, parsed at its border. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import msgspec

from shared.model.identity.identity import Identity, Workload
from shared.model.identity.loaded_code import ApprovedCode
from shared.model.identity.program import Program
from shared.model.policy.decision import DecisionRecord
from shared.model.policy.reasons import Reason
from shared.model.trust.bundle import AuthorityPhase, RotationKind

DEFAULT_DECISIONS_LIMIT = 1000
# No leaf lives longer (``ca/authority/sign.py``).
MAX_LEAF_LIFETIME_S = 86_400.0
# How much earlier than its signing a certificate becomes valid (``ca/authority/sign.py``).
BACKDATED_S: Final = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinTokenRecord:
    """A join token as the store keeps it. Its secret is kept as a SHA-256 only, and is no part of this value.

    Attributes:
        addresses: the IP addresses that the sidecar may register.
        labels: what the CA vouches for, of the token's workload, once the token is spent.
        spent: when, in seconds since the epoch; None: it can still be spent.
        instance: of the sidecar that spent it; empty until then.
        root_pin: SHA-256 (hexadecimal) of the public key of the root that was active when it was made.
    """

    token_id: str
    workload: Workload
    addresses: tuple[str, ...]
    labels: dict[str, str] = field(default_factory=dict)
    created: float
    expires: float
    spent: float | None = None
    instance: str = ""
    root_pin: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinGrant:
    """What an authenticated sidecar may do: speak for this workload, register these addresses.

    It comes from a spent join token, from a pod's token, or later from the sidecar's own certificate and the ledger.

    Attributes:
        pod_uid: of the pod for which the API server vouches; empty for a sidecar that joined by a join token.
        granted: when its join token was made, in seconds since the epoch; 0: not by a join token.
    """

    workload: Workload
    addresses: tuple[str, ...]
    labels: dict[str, str] = field(default_factory=dict)
    instance: str
    pod_uid: str = ""
    granted: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A sidecar's grant, and when it joined, in seconds since the epoch: what was issued before isn't its own."""

    grant: JoinGrant
    joined: float


class SidecarRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One sidecar. A struct: there are thousands, which take a fifth of the time to make.

    Attributes:
        allowed_addresses: those of its grant.
        addresses: those that it registered, a subset.
        connected: whether its stream is open.
        installed_sequence: of the trust bundle that it acknowledged last.
        namespace_versions: of the namespaces' states that it acknowledged last.
        pod_uid: of its pod; empty outside a cluster.
        has_stopped: it said that it stops when it closed its last stream.
        evicted: when it was evicted, in seconds since the epoch; None: it wasn't.
        clock_offset_s: by how much its clock was ahead of the CA's when it opened its last stream; None: not known.
        second_count: how often another sidecar came under its name while it was alive; ``second_at``: when last, in
            seconds since the epoch, ``second_from``: from which address.
    """

    instance: str
    workload: Workload
    allowed_addresses: tuple[str, ...]
    addresses: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    tunnel_port: int = 0
    version: str = ""
    capture: str = ""
    joined: float = 0.0
    last_seen: float = 0.0
    connected: bool = False
    installed_sequence: int = 0
    namespace_versions: dict[str, int] = {}
    pod_uid: str = ""
    clock_offset_s: float | None = None
    evicted: float | None = None
    has_stopped: bool = False
    second_count: int = 0
    second_at: float | None = None
    second_from: str = ""

    @property
    def grant(self) -> JoinGrant:
        """What it may do, as when it joined."""
        return JoinGrant(
            workload=self.workload,
            addresses=self.allowed_addresses,
            labels=self.labels,
            instance=self.instance,
            pod_uid=self.pod_uid,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRecord:
    """One line of the ledger: a certificate that was issued.

    Attributes:
        serial: of the certificate.
        authority_id: of the authority that signed it.
        instance: of the sidecar that asked for it.
        path, pid, uid: the sidecar's evidence about the process; for people.
    """

    serial: int
    identity: Identity
    authority_id: str
    instance: str
    issued: float
    not_before: float
    not_after: float
    path: str = ""
    pid: int = 0
    uid: int = -1
    approved_by: str = ""


class AuthorityKind(StrEnum):
    """Root, or issuing authority below a root."""

    ROOT = "root"
    ISSUING = "issuing"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityRecord:
    """One authority. Its private key is sealed; only ``ca.authority`` opens it.

    Attributes:
        authority_id: also in its certificate's subject, so that no two keys share one.
        root_id: of the root that signed it; its own ID for a root.
        certificate: DER.
        sealed_key: by the key-encryption key; empty once it is retired.
        prepared_sequence: the first trust bundle that holds it.
        is_tainted: whether it ever was: it stays distrusted after it is retired.
    """

    authority_id: str
    kind: AuthorityKind
    phase: AuthorityPhase
    root_id: str
    subject: str
    certificate: bytes
    public_key_digest: str
    sealed_key: bytes = field(repr=False)
    not_before: float
    not_after: float
    created: float
    prepared_sequence: int = 0
    is_tainted: bool = False


class RotationStep(StrEnum):
    """Where a rotation stands. Each step is one transaction with its journal entry."""

    PREPARED = "prepared"  # The new authorities are in the bundle; live sidecars are installing it.
    ACTIVE = "active"  # The new issuer signs; what it replaces is old, until nothing that it signed is alive.
    RETIRED = "retired"  # Finished: what was replaced is out of the bundle, its keys deleted.
    REVERTED = "reverted"  # Finished: the previous authority signs again, or has never stopped.
    SUPERSEDED = "superseded"  # Finished: another began first. What this one replaced retires when it may.


FINISHED_STEPS = frozenset({RotationStep.RETIRED, RotationStep.REVERTED, RotationStep.SUPERSEDED})


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationRecord:
    """One rotation.

    Attributes:
        issuer_id: of the new issuing authority; of a root's rotation it is below the new root.
        previous_id: of the issuing authority that it replaces.
        sequence: the trust bundle that live sidecars must have installed before activation.
        forced: activation didn't wait.
        published: of a root's rotation: since when everything outside the CA that names its roots (in a cluster: the
            trust ConfigMaps, the webhook's configuration) has the new one; None: not yet.
    """

    rotation_id: int
    step: RotationStep
    issuer_id: str
    previous_id: str
    sequence: int
    forced: bool
    started: float
    changed: float
    kind: RotationKind = RotationKind.ISSUER
    published: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """What happened to the authorities, for people: written in the transaction that did it."""

    time: float
    event: str
    rotation_id: int | None = None
    authority_id: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramRecord:
    """A ``Program`` object: approved digests of one workload.

    Attributes:
        weak: an interpreter or multi-call binary, approved knowingly.
        code: what they may load; None: it isn't looked at.
    """

    namespace: str
    name: str
    service_account: str
    programs: tuple[Program, ...]
    weak: bool = False
    approved_by: str = ""
    approved: float = 0.0
    code: ApprovedCode | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerFilter:
    """Which certificates to show, newest first; empty fields don't filter.

    Attributes:
        serial: hexadecimal; a prefix is enough.
        digest: the SHA-256 of the program, in hexadecimal.
        alive_at: only what has not ended then; ``since``, ``until``: when it was issued. Seconds since the epoch.
    """

    serial: str = ""
    digest: str = ""
    authority_id: str = ""
    instance: str = ""
    workload: Workload | None = None
    alive_at: float | None = None
    since: float | None = None
    until: float | None = None
    limit: int = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionFilter:
    """Which decisions to show; empty fields don't filter. Newest first, unless ``after_id`` follows the log.

    Attributes:
        workload: ``namespace/service-account``, on either side.
        program: ``sha256:…`` as the record writes it, on either side; a prefix is enough.
        since, until: seconds since the epoch.
        after_id: only later ones, oldest first.
    """

    namespace: str = ""
    workload: str = ""
    program: str = ""
    reason: Reason | None = None
    denied: bool | None = None
    would_deny: bool | None = None
    draft_differs: bool | None = None
    since: float | None = None
    until: float | None = None
    after_id: int | None = None
    limit: int = DEFAULT_DECISIONS_LIMIT


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDecision:
    """A decision with its place in the log."""

    decision_id: int
    record: DecisionRecord
