"""The CA's admin API: requests and answers as strict structs in JSON. Pure.

Belongs here: the request and answer of each endpoint, and the encoding of errors. Doesn't: the routes' code
(``ca/api``) or the client (``cli``). Times are seconds since the epoch, UTC; durations are seconds. Workloads are
``namespace/service-account``. Unknown fields of requests are refused; those of answers are passed over, and what a
request leaves at its default isn't written, so that command and CA may be of different releases. Long, because one
table lists every endpoint; groups of values have modules of their own (``admin_*.py``).

====== ==================================== ========================= ==========================
Method Path                                 Request                   Answer
====== ==================================== ========================= ==========================
GET    /v1/status                                                     ``CAStatus``
GET    /v1/join-tokens                                                ``JoinTokenList``
POST   /v1/join-tokens                      ``JoinTokenRequest``      ``JoinTokenCreated``
DELETE /v1/join-tokens/{id}                                           ``JoinTokenList``
POST   /v1/evictions                        ``EvictionRequest``       ``Evicted``
GET    /v1/sidecars                                                   ``SidecarList``
GET    /v1/rotation                                                   ``RotationStatus``
POST   /v1/rotation                         ``RotationRequest``       ``RotationStatus``
POST   /v1/rotation/revert                                            ``RotationStatus``
POST   /v1/authorities/{id}/taint                                     ``CAStatus``
GET    /v1/journal                          ``?since=&until=&limit=`` ``JournalList``
GET    /v1/namespaces                                                 ``NamespaceList``
GET    /v1/namespaces/{ns}                                            ``NamespaceState``
GET    /v1/namespaces/{ns}/readiness        ``?since_s=``             ``Readiness``
PUT    /v1/namespaces/{ns}/mode             ``ModeRequest``           ``NamespaceState``
GET    /v1/namespaces/{ns}/acknowledgements                           ``Acknowledgements``
GET    /v1/namespaces/{ns}/edges            query, see below          ``EdgeList``
GET    /v1/namespaces/{ns}/coverage         ``?since=``               ``CoverageList``
GET    /v1/namespaces/{ns}/timeline         ``?since=&until=``        ``Timeline``
GET    /v1/programs                         ``?namespace=``           ``ProgramList``
POST   /v1/programs                         ``ProgramRequest``        ``ProgramView``
DELETE /v1/programs/{ns}/{name}                                       ``NamespaceState``
GET    /v1/policies                         ``?namespace=``           ``PolicyList``
PUT    /v1/policies                         ``PolicyRequest``         ``PolicyView``
DELETE /v1/policies/{ns}                                              ``NamespaceState``
GET    /v1/namespaces/{ns}/draft                                      ``DraftView``
PUT    /v1/namespaces/{ns}/draft            ``DraftRequest``          ``NamespaceState``
DELETE /v1/namespaces/{ns}/draft            ``?number=``             ``NamespaceState``
POST   /v1/namespaces/{ns}/draft/promote    ``PromoteRequest``        ``PolicyView``
GET    /v1/decisions                        query, see below          ``DecisionList``
GET    /v1/decisions/follow                 query, see below          NDJSON of ``DecisionView``
GET    /v1/identities                       query, see below          ``IdentityList``
GET    /v1/connections                      ``?timeout_s=&limit=``    ``ConnectionList``
GET    /v1/foreign-domains                                            ``ForeignDomainList``
PUT    /v1/foreign-domains/{domain}         ``ForeignDomainRequest``  ``ForeignDomainList``
DELETE /v1/foreign-domains/{domain}                                   ``ForeignDomainList``
GET    /v1/audit                            query, see below          ``AuditPage``
DELETE /v1/audit                            ``?through=N:SHA256``     ``AuditPage``
GET    /v1/cluster                                                    ``ClusterStatus``
GET    /healthz, /readyz                                              ``Health``
GET    /metrics                                                       Prometheus text
====== ==================================== ========================= ==========================

The query of ``/v1/decisions``: ``namespace``, ``workload``, ``program`` (a prefix of ``sha256:…`` is enough),
``reason``, ``denied``, ``would_deny`` and ``draft_differs`` (``true`` or ``false``), ``since`` and ``until`` (seconds
since the epoch), ``limit`` (1 to 10,000). Newest first; ``follow`` sends new ones, oldest first (with ``since``, first
what was stored since then), and at the end, if the caller may no longer read them, one ``FollowEnd``. That of edges:
``since``, ``until``, ``workload``, ``denied``, ``would_deny``, ``offset`` and ``limit`` (1 to 5,000), by names. That of
``/v1/audit``: ``after`` (a line's number), ``since``, ``until``, ``limit`` (1 to 1,000), ``newest`` (the last ones
instead of the first). That of ``/v1/identities``: ``alive``, ``workload``, ``serial`` (hexadecimal, a prefix is
enough), ``digest`` (of the program), ``authority`` (its ID), ``sidecar`` (its instance), ``since`` and ``until`` (when
it was issued), ``limit``. ``/v1/cluster`` isn't found on a CA outside a cluster. Any other answer than 2xx is an
``ErrorAnswer``. Who may ask: ``ca/api/access``.
"""

from __future__ import annotations

from typing import Final, Self

import msgspec

from shared.model import errors
from shared.model.errors import TouchmarkError
from shared.model.identity.loaded_code import ApprovedCode
from shared.model.identity.program import Program
from shared.model.policy.decision import DecisionRecord
from shared.model.policy.rules import Mode, NamespaceState, Requirement, Rule, WorkloadMode
from shared.model.trust.bundle import AuthorityPhase, RotationKind
from shared.model.wire.admin_audit import AuditEntry as AuditEntry
from shared.model.wire.admin_audit import AuditPage as AuditPage
from shared.model.wire.admin_cluster import MAX_PODS_SHOWN as MAX_PODS_SHOWN
from shared.model.wire.admin_cluster import MAX_REFUSED_ENROLMENTS as MAX_REFUSED_ENROLMENTS
from shared.model.wire.admin_cluster import ClusterNamespace as ClusterNamespace
from shared.model.wire.admin_cluster import ClusterStatus as ClusterStatus
from shared.model.wire.admin_cluster import FormerImage as FormerImage
from shared.model.wire.admin_cluster import PodView as PodView
from shared.model.wire.admin_cluster import RefusedEnrolment as RefusedEnrolment
from shared.model.wire.admin_cluster import WatchView as WatchView
from shared.model.wire.admin_difference import DecidedOtherwise as DecidedOtherwise
from shared.model.wire.admin_difference import DraftRequest as DraftRequest
from shared.model.wire.admin_difference import DraftView as DraftView
from shared.model.wire.admin_difference import PolicyDifference as PolicyDifference
from shared.model.wire.admin_difference import PromoteRequest as PromoteRequest
from shared.model.wire.admin_edges import DEFAULT_EDGES_LISTED as DEFAULT_EDGES_LISTED
from shared.model.wire.admin_edges import MAX_EDGES_LISTED as MAX_EDGES_LISTED
from shared.model.wire.admin_edges import Cause as Cause
from shared.model.wire.admin_edges import CoverageList as CoverageList
from shared.model.wire.admin_edges import EdgeEnd as EdgeEnd
from shared.model.wire.admin_edges import EdgeList as EdgeList
from shared.model.wire.admin_edges import EdgeOutcome as EdgeOutcome
from shared.model.wire.admin_edges import EdgeView as EdgeView
from shared.model.wire.admin_edges import Readiness as Readiness
from shared.model.wire.admin_edges import ReadinessVerdict as ReadinessVerdict
from shared.model.wire.admin_edges import Timeline as Timeline
from shared.model.wire.admin_edges import TimelineHour as TimelineHour
from shared.model.wire.admin_edges import WorkloadCoverage as WorkloadCoverage
from shared.model.wire.admin_foreign import ForeignDomainList as ForeignDomainList
from shared.model.wire.admin_foreign import ForeignDomainRequest as ForeignDomainRequest
from shared.model.wire.admin_foreign import ForeignDomainView as ForeignDomainView
from shared.model.wire.admin_foreign import ForeignRootView as ForeignRootView
from shared.model.wire.admin_history import DEFAULT_GENERATIONS_LISTED as DEFAULT_GENERATIONS_LISTED
from shared.model.wire.admin_history import MAX_GENERATIONS_LISTED as MAX_GENERATIONS_LISTED
from shared.model.wire.admin_history import GenerationContent as GenerationContent
from shared.model.wire.admin_history import GenerationView as GenerationView
from shared.model.wire.admin_history import History as History
from shared.model.wire.admin_history import ModeRequest as ModeRequest
from shared.model.wire.admin_history import ModeTrial as ModeTrial
from shared.model.wire.admin_history import PastProgram as PastProgram
from shared.model.wire.admin_history import UndoRequest as UndoRequest
from shared.model.wire.admin_joining import Evicted as Evicted
from shared.model.wire.admin_joining import EvictionRequest as EvictionRequest
from shared.model.wire.admin_joining import JoinTokenList as JoinTokenList
from shared.model.wire.admin_joining import JoinTokenView as JoinTokenView
from shared.model.wire.admin_joining import SidecarList as SidecarList
from shared.model.wire.admin_joining import SidecarView as SidecarView
from shared.model.wire.messages import LiveConnection

MAX_ADMIN_BODY_BYTES: Final = 8 * 1024 * 1024
MAX_DECISIONS_LIMIT: Final = 10_000
DEFAULT_READINESS_SINCE_S: Final = 86_400.0
DEFAULT_JOIN_TOKEN_TTL_S: Final = 3600.0
MAX_JOIN_TOKEN_TTL_S: Final = 7 * 86_400.0


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    pass


class _Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


# ---- errors -------------------------------------------------------------------------------------------------------


class ErrorAnswer(_Answer, frozen=True):
    """What went wrong: a stable code of ``shared.model.errors``, one sentence, and what to do next."""

    code: str
    message: str
    hint: str = ""


_ERRORS: Final[dict[str, type[TouchmarkError]]] = {
    kind.code: kind
    for kind in (
        errors.InputError,
        errors.IdentityError,
        errors.NotFoundError,
        errors.ConflictError,
        errors.UnavailableError,
        errors.TooManyRequestsError,
        errors.RefusedError,
        errors.NotAuthenticatedError,
        errors.NotAllowedError,
        errors.MachineError,
    )
}


def to_error(answer: ErrorAnswer) -> TouchmarkError:
    """Return the error that the CA answered, as the client raises it: same code where the tree has it."""
    return _ERRORS.get(answer.code, TouchmarkError)(answer.message, hint=answer.hint)


# ---- CA, authorities, rotation ------------------------------------------------------------------------------------


class AuthorityView(_Answer, frozen=True):
    """One authority. ``kind`` is ``root`` or ``issuing``; ``certificates_alive`` counts unexpired leaves of it."""

    authority_id: str
    kind: str
    phase: AuthorityPhase
    subject: str
    public_key_digest: str
    not_before: float
    not_after: float
    certificates_alive: int = 0


class RotationStatus(_Answer, frozen=True):
    """Where the last rotation stands.

    Attributes:
        step: ``none`` (there has never been one), ``prepared``, ``active``, ``retired``, ``reverted``, or
            ``superseded`` (by the root's, for the moment until that begins).
        issuer: common name of the authority that signs *now*.
        next: common name of the prepared one; empty unless ``step`` is ``prepared``.
        previous: common name of the one that the rotation replaces; empty when there is none.
        sequence: the trust bundle that live sidecars must have installed before activation.
        waiting_for: live sidecars that haven't installed it: ``instance (namespace/service-account)``.
        previous_alive: unexpired certificates of what is replaced; retiring waits for 0.
        is_finished: no further step follows automatically.
        kind: what is rotated.
        root: common name of the root of ``issuer``; ``next_root`` and ``previous_root``: of those of ``next`` and
            ``previous``, only where the root is rotated.
        unpublished: what holds the CA's roots outside of it and lacks the new one: in a cluster ConfigMaps and the
            webhook's configuration. Activation waits for it, and then until ``ready_at``.
        ready_at: the earliest activation; 0 while that isn't known.
        open_tokens: join tokens that pin the previous root: ``id (namespace/service-account)``. It isn't retired
            before they are spent or have expired, the last of them at ``tokens_expire``.
    """

    step: str
    issuer: str
    next: str = ""
    previous: str = ""
    rotation_id: int = 0
    sequence: int = 0
    waiting_for: tuple[str, ...] = ()
    previous_alive: int = 0
    forced: bool = False
    started: float = 0.0
    changed: float = 0.0
    is_finished: bool = True
    kind: RotationKind = RotationKind.ISSUER
    root: str = ""
    next_root: str = ""
    previous_root: str = ""
    unpublished: tuple[str, ...] = ()
    ready_at: float = 0.0
    open_tokens: tuple[str, ...] = ()
    tokens_expire: float = 0.0


class RotationRequest(_Request, frozen=True):
    """Begin a rotation. ``force``: activate without waiting; also one of this kind that waits."""

    force: bool = False
    kind: RotationKind = RotationKind.ISSUER


class JournalView(_Answer, frozen=True):
    """What happened to the authorities, for people."""

    time: float
    event: str
    authority_id: str = ""
    detail: str = ""


class JournalList(_Answer, frozen=True):
    """Newest first."""

    entries: tuple[JournalView, ...]


class CAStatus(_Answer, frozen=True):
    """The CA at a glance.

    Attributes:
        listen: ``host:port`` of the TLS port.
        root_pin: SHA-256 (hexadecimal) of the active root's SubjectPublicKeyInfo.
        kek_file: the file, environment variable or Secret that holds the key-encryption key.
        kek_generated: Touchmark made the key-encryption key, at the first start or by `ca rewrap`; back it up apart.
        server_not_after: end of the CA's own server certificate.
        disk_free_bytes: room on the disk under SQLite's file, and inside it; None where that isn't known, as with
            PostgreSQL.
        is_disk_full: a write failed for want of room, and there isn't enough again: decisions aren't taken, and what
            was kept free is used for the rest.
        clock_offset_s: by how much the answering CA's clock is ahead of its database's; None with SQLite.
        undone_evictions: sidecars and workloads that were evicted before a restore, and aren't since.
    """

    version: str
    trust_domain: str
    started: float
    now: float
    listen: str
    data_dir: str
    kek_file: str
    kek_generated: bool
    root_pin: str
    server_not_after: float
    bundle_sequence: int
    authorities: tuple[AuthorityView, ...]
    rotation: RotationStatus
    sidecars_total: int
    sidecars_live: int
    sidecars_connected: int
    certificates_alive: int
    leaf_lifetime_s: float
    disk_free_bytes: int | None = None
    is_disk_full: bool = False
    clock_offset_s: float | None = None
    undone_evictions: tuple[str, ...] = ()


class Health(_Answer, frozen=True):
    """``ok`` or what fails. ``checks``: name → ``ok`` or the fault."""

    status: str
    checks: dict[str, str] = {}


# ---- joining ------------------------------------------------------------------------------------------------------


class JoinTokenRequest(_Request, frozen=True):
    """Make a single-use join token.

    Attributes:
        addresses: IP addresses that the sidecar may register; may be empty (a client without listeners).
        labels: what the CA vouches for, of this workload.
        ttl_s: 1 to ``MAX_JOIN_TOKEN_TTL_S``.
        ca: ``host:port`` at which the sidecar reaches the CA; empty: the CA's own ``listen``.
    """

    workload: str
    addresses: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    ttl_s: float = DEFAULT_JOIN_TOKEN_TTL_S
    ca: str = ""


class JoinTokenCreated(_Answer, frozen=True):
    """The token, which is shown only once."""

    token: str
    token_id: str
    workload: str
    addresses: tuple[str, ...]
    ca: str
    expires: float

    def __repr__(self) -> str:
        return f"JoinTokenCreated(token_id={self.token_id!r}, workload={self.workload!r})"


# ---- namespaces, programs, policies -------------------------------------------------------------------------------


class NamespaceList(_Answer, frozen=True):
    """By name. Namespaces with objects, or in which a sidecar lives."""

    namespaces: tuple[NamespaceState, ...]


class Acknowledgements(_Answer, frozen=True):
    """Which live sidecars that subscribed to the namespace have installed its current version.

    Attributes:
        installed: how many have; ``total``: how many must.
        waiting: instances of those that haven't.
    """

    namespace: str
    version: int
    installed: int
    total: int
    waiting: tuple[str, ...]


class ProgramRequest(_Request, frozen=True):
    """Approve programs for a workload: makes or replaces the ``Program`` object of that name.

    Attributes:
        name: empty: ``SERVICE-ACCOUNT-`` and the first 12 digits of the first digest.
        weak: knowingly an interpreter or multi-call binary.
        approved_by: who approves, for people.
        code: what they may load; None: it isn't looked at.
    """

    namespace: str
    service_account: str
    programs: tuple[Program, ...]
    name: str = ""
    weak: bool = False
    approved_by: str = ""
    code: ApprovedCode | None = None


class PolicyCandidateRequest(_Request, frozen=True):
    """Rules and approvals that aren't in force, for a readiness with them.

    Attributes:
        workload_modes: workloads' own modes; None: the present ones.
        replaces_programs: ``programs`` come in the place of the namespace's approvals, and not beside them.
    """

    rules: tuple[Rule, ...] = ()
    group_label: str = ""
    requires: tuple[Requirement, ...] = ()
    programs: tuple[ProgramRequest, ...] = ()
    replaces_programs: bool = False
    workload_modes: tuple[WorkloadMode, ...] | None = None

    @classmethod
    def from_generation(cls, content: GenerationContent) -> Self:
        """Return what a namespace said in an earlier generation, to be judged in the place of what it says now."""
        return cls(
            rules=content.rules,
            group_label=content.group_label,
            requires=content.requires,
            programs=tuple(
                ProgramRequest(
                    namespace=content.namespace,
                    service_account=each.service_account,
                    programs=each.programs,
                    name=each.name,
                    weak=each.weak,
                    code=each.code,
                )
                for each in content.programs
            ),
            replaces_programs=True,
            workload_modes=content.workload_modes,
        )


class ProgramView(_Answer, frozen=True):
    """A ``Program`` object: approved programs of one workload. ``version``: of the namespace, after this change."""

    namespace: str
    name: str
    service_account: str
    programs: tuple[Program, ...]
    weak: bool
    approved_by: str
    approved: float
    version: int = 0
    code: ApprovedCode | None = None


class ProgramList(_Answer, frozen=True):
    """By namespace and name."""

    programs: tuple[ProgramView, ...]


class PolicyRequest(_Request, frozen=True):
    """Replace a namespace's ``MeshPolicy``. ``mode`` None keeps the present one.

    Attributes:
        workload_modes: workloads' own modes; None: the present ones stay.
        force: make it explicit although that would refuse connections that were seen.
        expected_version: the version of the namespace's state that was looked at; None: whichever it is.
    """

    namespace: str
    rules: tuple[Rule, ...] = ()
    group_label: str = ""
    mode: Mode | None = None
    requires: tuple[Requirement, ...] = ()
    force: bool = False
    expected_version: int | None = None
    workload_modes: tuple[WorkloadMode, ...] | None = None


class PolicyDifferenceRequest(_Request, frozen=True):
    """Policies and programs as ``policy apply`` would write them, to compare with those in force."""

    policies: tuple[PolicyRequest, ...] = ()
    programs: tuple[ProgramRequest, ...] = ()


class PolicyView(_Answer, frozen=True):
    """A namespace's ``MeshPolicy`` and its version."""

    namespace: str
    version: int
    mode: Mode
    group_label: str
    rules: tuple[Rule, ...]
    requires: tuple[Requirement, ...] = ()
    workload_modes: tuple[WorkloadMode, ...] = ()


class PolicyList(_Answer, frozen=True):
    """By namespace."""

    policies: tuple[PolicyView, ...]


# ---- decisions, identities, connections ---------------------------------------------------------------------------


class DecisionView(_Answer, frozen=True):
    """A decision and its place in the CA's log."""

    id: int
    record: DecisionRecord


class FollowEnd(_Answer, frozen=True):
    """The last line of ``/v1/decisions/follow`` where the CA ends it: why. A command of 0.1 can't read it, and ends."""

    ended: ErrorAnswer


class DecisionList(_Answer, frozen=True):
    """Newest first. ``lost``: records that sidecars had to drop since this CA started."""

    decisions: tuple[DecisionView, ...]
    lost: int = 0


class IdentityView(_Answer, frozen=True):
    """One certificate of the ledger. ``serial`` in hexadecimal; path, pid and uid are the sidecar's evidence."""

    serial: str
    identity: str
    workload: str
    program: str
    kind: str
    issuer: str
    instance: str
    issued: float
    not_after: float
    alive: bool
    path: str = ""
    pid: int = 0
    uid: int = -1
    approved_by: str = ""


class IdentityList(_Answer, frozen=True):
    """Newest first."""

    identities: tuple[IdentityView, ...]
    truncated: bool = False


class ConnectionView(_Answer, frozen=True):
    """One live connection, with the sidecar that reported it."""

    sidecar: str
    workload: str
    connection: LiveConnection


class ConnectionList(_Answer, frozen=True):
    """Live connections of all sidecars that answered.

    ``silent``: instances of those that didn't in time, or whose stream is with a replica of the CA that wasn't asked.
    """

    connections: tuple[ConnectionView, ...]
    silent: tuple[str, ...] = ()
    truncated: bool = False
