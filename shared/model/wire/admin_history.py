"""The admin API about a namespace's mode and what it said before; ``admin.py`` has the rest, and re-exports this. Pure.

A generation is one state of a namespace's mode, rules and approvals. Each change makes one; what changes nothing makes
none.
"""

from __future__ import annotations

from typing import Final

import msgspec

from shared.model.identity.loaded_code import ApprovedCode
from shared.model.identity.program import Program
from shared.model.policy.rules import Mode, Requirement, Rule, WorkloadMode
from shared.model.wire.admin_audit import AuditActor

MAX_GENERATIONS_LISTED: Final = 100
DEFAULT_GENERATIONS_LISTED: Final = 20


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    pass


class GenerationView(_Answer, frozen=True):
    """One generation.

    Attributes:
        version: of the namespace's state, when it got this one.
        time: seconds since the epoch, by the database's clock.
        act: what made it, as in the audit log; ``before``: what was there when the history began.
        subject: what the act was about: the namespace, or ``namespace/program``.
        changes: what differs from the generation before, in words.
    """

    generation: int
    version: int
    time: float
    act: str
    subject: str
    actor: AuditActor
    mode: Mode
    changes: tuple[str, ...] = ()
    workload_modes: tuple[WorkloadMode, ...] = ()


class ModeTrial(_Answer, frozen=True):
    """A mode that goes back by itself at ``until``, unless it is confirmed; seconds since the epoch, the CA's clock.

    Attributes:
        workload_modes: workloads' own modes go back to these, and the namespace's stays; None: the namespace's goes
            back to ``back_to``.
    """

    mode: Mode
    back_to: Mode
    started: float
    until: float
    workload_modes: tuple[WorkloadMode, ...] | None = None


class History(_Answer, frozen=True):
    """A namespace's generations, newest first; none: nothing has changed since histories are kept.

    Attributes:
        trial: whether its mode is on trial.
    """

    namespace: str
    generations: tuple[GenerationView, ...]
    trial: ModeTrial | None = None


class PastProgram(_Answer, frozen=True):
    """A ``Program`` object of a generation."""

    name: str
    service_account: str
    programs: tuple[Program, ...]
    weak: bool
    approved_by: str
    approved: float
    code: ApprovedCode | None = None


class GenerationContent(_Answer, frozen=True):
    """What a namespace said in one generation.

    Attributes:
        mode: the one that an undo gives back; of a mode on trial, the one to which that was to go back.
        has_policy: it had a MeshPolicy.
        tried: the mode that was on trial; None: none was.
        workload_modes: the workloads' own, likewise.
    """

    namespace: str
    generation: int
    mode: Mode
    has_policy: bool
    group_label: str
    rules: tuple[Rule, ...]
    requires: tuple[Requirement, ...]
    programs: tuple[PastProgram, ...]
    tried: Mode | None = None
    workload_modes: tuple[WorkloadMode, ...] = ()


class ModeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Switch a namespace's mode, or that of workloads. With ``expected_version`` only from that version.

    Attributes:
        mode: None: workloads inherit their namespace's.
        workloads: service accounts whose own mode it is; none: the namespace's.
        for_s: seconds after which it goes back by itself, unless it is confirmed; None: it stays.
        force: switch to explicit although that would refuse connections that were seen.
        since_s: judge explicit by what was seen in so many seconds; None: ``DEFAULT_READINESS_SINCE_S``.
    """

    mode: Mode | None
    workloads: tuple[str, ...] = ()
    expected_version: int | None = None
    for_s: float | None = None
    force: bool = False
    since_s: float | None = None


class UndoRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Go back: to the generation before, or to this one; with ``expected`` only if that is the newest.

    Attributes:
        force: also where that makes the namespace explicit and would refuse connections that were seen.
        since_s: judge that by what was seen in so many seconds; None: ``DEFAULT_READINESS_SINCE_S``.
    """

    to: int | None = None
    expected: int | None = None
    force: bool = False
    since_s: float | None = None
