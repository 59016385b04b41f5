"""The JSON objects that are the command's own, not the admin API's. Pure.

Belongs here: values that a verb prints with ``--json`` and that no other module has. Imported by the verbs where they
print, so that ``--help`` stays quick.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cli.admin.overview import NamespaceRow
from cli.cluster.installation.planning import Change
from cli.cluster.installation.removal import Part
from cli.text.findings import Finding
from shared.model.identity.loaded_code import LoadedObject
from shared.model.policy.rules import Mode, WorkloadMode
from shared.model.wire.admin import CAStatus, Readiness, SidecarView
from shared.model.wire.admin_audit import ChainFault


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinTokenFile:
    """A join token that was written to a file."""

    token_id: str
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupKey:
    """A key for backups; ``file`` holds the secret half, ``recipient`` is the public one."""

    recipient: str
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupFile:
    """A backup that was written; ``taken`` in seconds since the epoch."""

    file: str
    bytes: int
    trust_domain: str
    taken: float


class CAStatusWithSidecars(CAStatus, frozen=True, kw_only=True):
    """The CA at a glance, and the sidecars that joined."""

    sidecars: tuple[SidecarView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """Versions; ``sidecars``: how many live ones run which."""

    command: str
    ca: str
    sidecars: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshStatus:
    """The mesh at a glance."""

    is_well: bool
    trust_domain: str
    versions: Versions
    sidecars_connected: int
    sidecars_live: int
    bundle_sequence: int
    rotation: str
    namespaces: list[NamespaceRow]
    problems: list[Finding]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeView:
    """A namespace's mode; see ``cli.backends.base.ModeState``."""

    namespace: str
    mode: Mode | None
    version: int
    installed: int
    total: int
    waiting: tuple[str, ...]
    wanted: Mode | None
    is_observed: bool
    fault: str
    back_to: Mode | None
    until: float
    workload_modes: tuple[WorkloadMode, ...]
    workload_modes_back_to: tuple[WorkloadMode, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Undone(ModeView):
    """A namespace that went back; see ``cli.backends.base.ModeState``.

    Attributes:
        undone: the generation that was in force.
        restored: the earlier one that is in force again, as a new one.
        left: what couldn't be given back.
    """

    undone: int
    restored: int
    left: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeSwitch(ModeView):
    """A switched mode, and what explicit mode would have refused before."""

    readiness: Readiness | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramsRemoved:
    """Approvals that were removed."""

    removed: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeUpdated:
    """What a workload's programs may load besides from now on; ``removed``: what they mayn't any more."""

    added: tuple[LoadedObject, ...]
    removed: tuple[LoadedObject, ...]
    objects: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedView:
    """One object that was applied; see ``cli.backends.base.Applied``."""

    kind: str
    namespace: str
    name: str
    version: int | None
    is_confirmed: bool
    is_draft: bool
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectsDeleted:
    """Objects that were deleted, as ``KIND NAMESPACE/NAME``."""

    deleted: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedObject:
    """An object that can't be injected."""

    where: str
    code: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InjectionReport:
    """What injection would do, by place. ``passed_over``: asked for by the namespace alone, and the node's own."""

    injected: list[str]
    not_asked: list[str]
    refused: list[RefusedObject]
    passed_over: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedSettings:
    """The settings that one pod's sidecar gets.

    ``settings``: annotation (without the prefix), value, source (pod, namespace, built-in, or adapted to others), and
    what it takes, for people.
    ``faults``: what its namespace says and can't be used.
    """

    where: str
    namespace: str
    settings: list[dict[str, str]]
    faults: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class InjectionExplanation:
    """What each pod gets, and whose word it is."""

    pods: list[ExplainedSettings]
    refused: list[RefusedObject]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectList:
    """A Kubernetes ``List``."""

    apiVersion: str  # noqa: N815  # The field's name in Kubernetes.
    kind: str
    items: list[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditChain:
    """What `touchmark audit verify` found: which lines, between which marks (``NUMBER:SHA256``), and what is wrong."""

    is_whole: bool
    lines: int
    anchor: str
    head: str
    faults: tuple[ChainFault, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditExport:
    """An audit log that was written to a file; ``is_pruned``: its lines were removed from the CA."""

    file: str
    chain: AuditChain
    is_pruned: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """What ``install`` or ``upgrade`` did, or would do.

    Attributes:
        is_applied: false on trial.
        is_ready: the CA serves; false also where nobody waited for it.
        laggards: pods whose sidecar isn't the one that new pods get.
    """

    namespace: str
    version: str
    changes: list[Change]
    is_applied: bool
    is_ready: bool
    laggards: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Uninstallation:
    """What ``uninstall`` did, or would do.

    Attributes:
        kept: ours, and left on purpose.
        foreign: what else is in the namespace, for which it stays.
        remaining: deleted, and not gone yet.
    """

    deleted: list[Part]
    kept: list[Part]
    foreign: list[str]
    remaining: list[Part]
    is_applied: bool
