"""What explicit mode would refuse of what was seen, all of it in one round: as it is, and with every program approved.

A connection may need several changes: approvals of both programs, then a rule. Who sees only the first refusal comes
again for each. Belongs here: which changes what was seen needs, each once. Doesn't: how a change is found and tried
(``fixes.py``), reading what was seen. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

from shared.model.adoption.fixes import Fix, FixKind, advise, approve, find_rule, with_approvals
from shared.model.adoption.seen import Seen, Tally, fill_in_hosts, name_end
from shared.model.errors import IdentityError
from shared.model.identity.identity import Workload, parse_workload
from shared.model.identity.program import Program, parse_program
from shared.model.policy.decision import Answer, PartyRecord
from shared.model.policy.evaluate import NamespacePolicy, compile_namespace
from shared.model.policy.modes import as_explicit
from shared.model.policy.reasons import Reason
from shared.model.policy.replay import Attempt, judge, read_attempt
from shared.model.policy.rules import Direction, NamespaceState

_MAX_SIDECARS = 5


class Blocker(msgspec.Struct, frozen=True, kw_only=True):
    """One change that is missing, with what needs it.

    Attributes:
        reason: why connections are refused without it; of an approval that a program needs as a client and as a server,
            ``program_not_approved``.
        seen: the newest of them; where a program is to be approved, the newest that its own sidecar reported, if any.
        count: how many connections need it.
        is_next: seen only with the programs approved: today another refusal comes first.
        is_own_word: a sidecar of the workload whose program is to be approved has named it itself. Another one's word
            may be a lie, by which a program would be approved that nobody has seen there (``doubt``).
    """

    reason: Reason
    fix: Fix
    seen: Seen
    count: int
    first: float
    last: float
    sidecars: tuple[str, ...]
    is_next: bool
    is_own_word: bool = True

    def doubt(self) -> Blocker:
        """Return the same without the approval: only another workload's sidecar says that there is such a program."""
        advice = (
            f"only the other end's sidecar names this program of {self.fix.workload}: see what its own sidecar has seen"
            f" with `touchmark program approve {self.fix.workload} --from-decisions`"
        )
        return msgspec.structs.replace(self, fix=Fix(kind=FixKind.ADVICE, advice=advice))


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What was found.

    Attributes:
        blockers: most connections first.
        failures: what failed for reasons that no mode changes, each once; nothing that stands against explicit mode.
        settled: connections that were marked or refused when they were seen and would be allowed now.
        unclear: connections that a rule allowed when they were seen, of which but one address was kept: the rules allow
            that one, and not all.
    """

    blockers: tuple[Blocker, ...]
    failures: tuple[Blocker, ...]
    settled: int
    unclear: int = 0


class _Group:
    """What is known of one change."""

    __slots__ = ("first", "fix", "is_next", "is_own_word", "last", "listens", "newest", "reason", "sidecars", "tally")

    def __init__(self, reason: Reason, fix: Fix, seen: Seen) -> None:
        self.reason = reason
        self.fix = fix
        self.newest = seen
        self.first, self.last = seen.first, seen.last
        self.sidecars: dict[str, None] = {}
        self.listens: set[tuple[str, int]] = set()  # Where the program to approve listens: workload, port.
        self.tally = Tally()
        self.is_next = True
        self.is_own_word = fix.kind is not FixKind.APPROVE

    def add(self, seen: Seen, reason: Reason, *, is_next: bool) -> None:
        """Add connections that need this change, and why they are refused without it."""
        if reason is not self.reason:
            self.reason = Reason.PROGRAM_NOT_APPROVED
        if reason is Reason.LISTENER_NOT_APPROVED and self.fix.kind is FixKind.APPROVE:
            self.listens.add((seen.destination.workload, seen.port))
        self.tally.add(seen)
        self.is_next = self.is_next and is_next
        self.is_own_word = self.is_own_word or self.fix.workload in (seen.own.workload, seen.own.listed)
        self.first = min(self.first, seen.first)
        self.last = max(self.last, seen.last)
        if self._rank(seen) >= self._rank(self.newest):
            self.newest = seen
        self.sidecars.update(dict.fromkeys(seen.sidecars))

    def _rank(self, seen: Seen) -> tuple[bool, float]:
        """Order what was seen: of a program to approve, what its own sidecar said comes first: it knows the path."""
        own = (seen.own.workload, seen.own.program)
        return self.fix.kind is FixKind.APPROVE and own == (self.fix.workload, self.fix.program), seen.last

    def finish(self) -> Blocker:
        return Blocker(
            reason=self.reason,
            fix=self.fix,
            seen=self.newest,
            count=self.tally.count(),
            first=self.first,
            last=self.last,
            sidecars=tuple(self.sidecars)[:_MAX_SIDECARS],
            is_next=self.is_next,
            is_own_word=self.is_own_word,
        )


def find_namespaces(seen: Iterable[Seen]) -> frozenset[str]:
    """Return the namespaces whose states are needed to judge this."""
    found: set[str] = set()
    for each in seen:
        found.add(each.namespace)
        for party in (each.source, each.destination):
            for text in (party.workload, party.listed):
                if (workload := _read_workload(text)) is not None:
                    found.add(workload.namespace)
    return frozenset(found)


def find_blockers(
    seen: Sequence[Seen],
    states: Mapping[str, NamespaceState],
    namespace: str,
    *,
    check: Callable[[], None] = lambda: None,
) -> Finding:
    """Judge what a namespace's sidecars saw, as if all its workloads were explicit and other namespaces as they are.

    Refusals by a deny rule are intended and no blocker.

    Arguments:
        states: at least those of ``find_namespaces``; others count as without objects.
        check: called for each that was seen; what it raises ends this.
    """
    current = {name: states.get(name, NamespaceState(namespace=name)) for name in find_namespaces(seen) | {namespace}}
    current[namespace] = as_explicit(current[namespace])
    seen = fill_in_hosts(seen)
    judging = _Judging(current, seen)
    groups: dict[tuple[object, ...], _Group] = {}
    failures: dict[tuple[object, ...], _Group] = {}
    settled, unclear = Tally(), Tally()
    for each in seen:
        check()
        if each.has_failed:
            failure = (each.reason, *_ends(each), each.service, each.destination.address.rpartition(":")[0])
            failures.setdefault(failure, _Group(each.reason, advise(each.reason, each.detail), each)).add(
                each, each.reason, is_next=False
            )
            missing = list(judging.find_missing_program(each))
        else:
            missing = list(judging.find_missing(each))
        if (
            not each.has_failed
            and not missing
            and (each.would_deny or each.answer is Answer.DENY)
            and not judging.is_denied(each)
        ):
            settled.add(each)
        if each.is_summed and _needs_rule(missing):
            missing = list(judging.find_missing(each.at_sample()))
            if not _needs_rule(missing) and any(_needs_rule(judging.find_missing(at)) for at in each.at_extremes()):
                unclear.add(each)
        for reason, fix, is_next in missing:
            groups.setdefault(_name_change(reason, fix, each), _Group(reason, fix, each)).add(
                each, reason, is_next=is_next
            )
    return Finding(
        blockers=_order(_drop_nameless(groups.values())),
        failures=_order(failures.values()),
        settled=settled.count(),
        unclear=unclear.count(),
    )


def _name_change(reason: Reason, fix: Fix, seen: Seen) -> tuple[object, ...]:
    """Return what connections have in common that need the same change: an approval is one, whatever it is for."""
    if fix.kind is FixKind.ADVICE:
        return reason, *_ends(seen)
    return (fix,) if fix.kind is FixKind.APPROVE else (reason, fix)


def list_missing_changes(
    seen: Sequence[Seen], states: Mapping[str, NamespaceState], *, check: Callable[[], None] = lambda: None
) -> list[tuple[Fix, ...]]:
    """Return which changes each of what was seen needs to pass; none where it passes, or a deny rule refuses it.

    Arguments:
        states, check: as for ``find_blockers``; modes make no difference.
    """
    current = {name: states.get(name, NamespaceState(namespace=name)) for name in find_namespaces(seen)}
    judging = _Judging({name: as_explicit(state) for name, state in current.items()}, seen)
    missing = []
    for each in seen:
        check()
        missing.append(tuple(dict.fromkeys(fix for _, fix, _ in judging.find_missing(each))))
    return missing


def find_allowed(
    seen: Sequence[Seen], states: Mapping[str, NamespaceState], *, check: Callable[[], None] = lambda: None
) -> list[bool]:
    """Tell of each of what was seen whether it needs no change to pass, and no deny rule refuses it either.

    Arguments:
        states, check: as for ``list_missing_changes``.
    """
    current = {name: as_explicit(states.get(name, NamespaceState(namespace=name))) for name in find_namespaces(seen)}
    judging = _Judging(current, seen)
    allowed = []
    for each in seen:
        check()
        allowed.append(not (each.has_failed or any(judging.find_missing(each)) or judging.is_denied(each)))
    return allowed


class _Judging:
    """The policies to judge by: as they are, and with every program approved that was seen."""

    def __init__(self, states: Mapping[str, NamespaceState], seen: Sequence[Seen]) -> None:
        self._as_is = {name: compile_namespace(state) for name, state in states.items()}
        programs: dict[str, list[tuple[str, Program]]] = {}
        for each in seen:
            for party in (each.source, each.destination):
                if (known := _read_program(party)) is not None:
                    programs.setdefault(known[0].namespace, []).append((known[0].service_account, known[1]))
        self._approved = {
            name: compile_namespace(with_approvals(state, programs[name])) if name in programs else self._as_is[name]
            for name, state in states.items()
        }

    def is_denied(self, seen: Seen) -> bool:
        """Tell whether a deny rule refuses it, as intended."""
        if seen.is_withheld_readiness:
            return False
        return judge(_read(seen), self._as_is).reason is Reason.DENY_RULE

    def find_missing(self, seen: Seen) -> Iterator[tuple[Reason, Fix, bool]]:
        """Yield what is missing for connections to pass: why, what changes it, and whether another refusal hides it."""
        if seen.is_withheld_readiness:
            yield from self._find_approval(seen.destination, Reason.LISTENER_NOT_APPROVED, seen)
            return
        try:
            attempt = _read(seen)
            verdict = judge(attempt, self._as_is)
        except (IdentityError, KeyError):
            yield seen.reason, advise(seen.reason, seen.detail), False  # Never safer than it looked.
            return
        if verdict.reason is not Reason.DENY_RULE and (unproven := seen.find_unproven()) is not None:
            yield unproven, advise(unproven, seen.detail), False
        if verdict.allowed or verdict.reason is Reason.DENY_RULE:
            return
        then = judge(attempt, self._approved)
        unapproved = [
            *self._find_approval(seen.source, Reason.PROGRAM_NOT_APPROVED, seen),
            *self._find_approval(seen.destination, Reason.LISTENER_NOT_APPROVED, seen),
        ]
        yield from unapproved
        if not then.allowed and then.reason is not Reason.DENY_RULE:
            yield then.reason, _find_fix(attempt, self._approved, then.reason, seen), bool(unapproved)
        elif not unapproved:
            yield verdict.reason, advise(verdict.reason, seen.detail), False

    def find_missing_program(self, seen: Seen) -> Iterator[tuple[Reason, Fix, bool]]:
        """Yield the approval that a program lacks which tried to connect and met a failure: it will try again."""
        if seen.direction is Direction.EGRESS:
            yield from self._find_approval(seen.source, Reason.PROGRAM_NOT_APPROVED, seen)

    def _find_approval(self, party: PartyRecord, reason: Reason, seen: Seen) -> Iterator[tuple[Reason, Fix, bool]]:
        known = _read_program(party)
        if known is None:
            if seen.is_withheld_readiness:
                yield seen.reason, advise(seen.reason, seen.detail), False
            return
        workload, program = known
        policy = self._as_is.get(workload.namespace)
        if policy is None or policy.find_approval(workload, program) is None:
            yield reason, approve(workload, program), False
        elif seen.is_withheld_readiness and seen.reason not in (reason, Reason.PROGRAM_NOT_APPROVED):
            yield seen.reason, advise(seen.reason, seen.detail), False


def _needs_rule(missing: Iterable[tuple[Reason, Fix, bool]]) -> bool:
    """Tell whether anything but approvals is missing."""
    return any(fix.kind is not FixKind.APPROVE for _, fix, _ in missing)


def _read(seen: Seen) -> Attempt:
    return read_attempt(
        seen.direction, seen.namespace, source=seen.source, destination=seen.destination, port=seen.port
    )


def _find_fix(attempt: Attempt, policies: Mapping[str, NamespacePolicy], reason: Reason, seen: Seen) -> Fix:
    fix = find_rule(attempt, policies, reason)
    return advise(reason, seen.detail) if fix.kind is FixKind.ADVICE else fix


def _read_program(party: PartyRecord) -> tuple[Workload, Program] | None:
    workload = _read_workload(party.workload)
    if workload is None or not party.program:
        return None
    try:
        return workload, parse_program(party.program)
    except IdentityError:
        return None


def _read_workload(text: str) -> Workload | None:
    try:
        return parse_workload(text) if text else None
    except IdentityError:
        return None


def _ends(seen: Seen) -> tuple[str, ...]:
    """Name both ends and the port, for what has no fix of its own; a stranger is as good as another."""
    source = name_end(seen.source), seen.source.program
    destination = name_end(seen.destination), seen.destination.program
    return (*source, *destination, str(seen.port))


def _drop_nameless(groups: Iterable[_Group]) -> list[_Group]:
    """Leave out listeners that a client couldn't name where the listening side has named them."""
    groups = list(groups)
    named = {each for group in groups for each in group.listens}
    return [
        group
        for group in groups
        if group.reason is not Reason.LISTENER_NOT_APPROVED
        or group.fix.kind is FixKind.APPROVE
        or (name_end(group.newest.destination), group.newest.port) not in named
        or group.newest.direction is not Direction.EGRESS
    ]


def _order(groups: Iterable[_Group]) -> tuple[Blocker, ...]:
    found = [group.finish() for group in groups]
    return tuple(sorted(found, key=lambda each: (-each.count, -each.last, each.reason)))
