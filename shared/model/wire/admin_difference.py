"""What other policies would change, proposed ones and drafts: the admin API; ``admin.py`` re-exports this. Pure."""

from __future__ import annotations

import msgspec

from shared.model.adoption.fixes import Fix
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, Mode, PolicyDraft, Requirement, Rule, WorkloadMode


class DecidedOtherwise(msgspec.Struct, frozen=True, kw_only=True):
    """Equal connections that the proposed policies decide otherwise.

    Attributes:
        before, after: ``allow``, ``would deny`` or ``deny``: the stricter side's verdict by the current and by the
            proposed policies.
        side: whose sidecar decides it; ``reason`` and ``rule`` are its.
        path: of the reporter's own program, in its own words.
        fixes: of a draft, where it is decided more strictly: what would let it pass, by the draft's rules.
    """

    before: str
    after: str
    side: Direction
    reason: Reason
    rule: str
    source: str
    source_program: str
    destination: str
    destination_program: str
    port: int
    service: str
    path: str
    connections: int
    last_seen: float
    fixes: tuple[Fix, ...] = ()


class PolicyDifference(msgspec.Struct, frozen=True, kw_only=True):
    """What other policies change for connections that were seen.

    Attributes:
        namespaces: whose connections were looked at: those of the proposed documents.
        denied: decided more strictly; ``allowed``: less strictly. Most connections first.
        unchanged, unknown: how many connections; of the unknown ones the records don't say enough.
        unknowns: what else isn't known: records that were lost, or more than are looked at.
        since: seconds since the epoch: whole hours.
    """

    namespaces: tuple[str, ...]
    since: float
    denied: tuple[DecidedOtherwise, ...]
    allowed: tuple[DecidedOtherwise, ...]
    unchanged: int
    unknown: int
    unknowns: tuple[str, ...] = ()


class DraftRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Write a namespace's draft. ``mode`` None: that which is in force; likewise ``workload_modes``.

    Attributes:
        is_first: only where there is no draft yet.
    """

    rules: tuple[Rule, ...] = ()
    group_label: str = ""
    mode: Mode | None = None
    requires: tuple[Requirement, ...] = ()
    workload_modes: tuple[WorkloadMode, ...] | None = None
    is_first: bool = False


class PromoteRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Put a namespace's draft in force.

    Attributes:
        number: of the draft that was looked at; None: whichever it is.
        force: make the namespace explicit although that would refuse connections that were seen.
        takes_back: also over a policy that is newer than the draft; ``force`` does so, too.
    """

    number: int | None = None
    force: bool = False
    takes_back: bool = False


class DraftView(msgspec.Struct, frozen=True, kw_only=True):
    """A namespace's draft, and how connections would have gone by it since it was written.

    Attributes:
        written: seconds since the epoch.
        evaluating: how many of ``sidecars``, those that use the namespace's policy, evaluate it.
        waiting: some that don't: they haven't installed it yet, or are of an older release.
        denied: decided more strictly; ``allowed``: less strictly. Most connections first. Each as its own side says.
        settled: were decided more strictly, which the current approvals, and other namespaces' rules, no longer do. Not
            among ``denied``.
        unchanged: how many connections that the namespace's own sidecars decided it leaves as they are.
        uncounted: connections for which there was no room, and records that sidecars lost: the other numbers are a
            lower bound.
        evaluated_since: when the namespace's own sidecars wrote the first verdict; None: there is none yet.
        is_truncated: there are more than are shown.
        is_partly_unknown: of some connections sidecars can't say what it would make: they aren't in the numbers.
        is_outdated: the policy in force has changed since: to put the draft in force takes that back.
        is_object: a MeshPolicy with ``draft: true`` says it: no command changes it.
    """

    namespace: str
    draft: PolicyDraft
    written: float
    sidecars: int = 0
    evaluating: int = 0
    waiting: tuple[str, ...] = ()
    denied: tuple[DecidedOtherwise, ...] = ()
    allowed: tuple[DecidedOtherwise, ...] = ()
    unchanged: int = 0
    uncounted: int = 0
    evaluated_since: float | None = None
    is_truncated: bool = False
    is_partly_unknown: bool = False
    is_outdated: bool = False
    is_object: bool = False
    settled: tuple[DecidedOtherwise, ...] = ()
