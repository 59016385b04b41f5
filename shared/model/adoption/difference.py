"""What other rules and approvals would change for connections that were seen: both decided by the evaluator. Pure.

Belongs here: deciding what was seen by two sets of policies, and counting what differs. Doesn't: reading what was seen,
or what would be needed (``blockers.py``).

What it can't know is told apart as unknown: connections that failed before anything was decided, and those whose record
doesn't say enough. Holders, labels and loaded code of that moment count as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum

import msgspec

from shared.model.adoption.seen import Seen, Tally, fill_in_hosts, name_end
from shared.model.errors import IdentityError
from shared.model.policy.decision import find_host
from shared.model.policy.evaluate import NamespacePolicy, Verdict, compile_namespace
from shared.model.policy.reasons import Reason
from shared.model.policy.replay import judge, read_attempt
from shared.model.policy.rules import NamespaceState


class Outcome(IntEnum):
    """How strict a verdict is; both sides decide, and the stricter holds."""

    ALLOW = 0
    WOULD_DENY = 1
    DENY = 2

    @property
    def words(self) -> str:
        """For people."""
        return self.name.lower().replace("_", " ")


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """Equal connections that are decided otherwise.

    Attributes:
        before, after: by the current and by the proposed policies, as the stricter side decides.
        reason, rule: of the proposed verdict of the side that decides it.
        seen: the newest of them, from the deciding side.
        count: how many connections.
    """

    before: Outcome
    after: Outcome
    reason: Reason
    rule: str
    seen: Seen
    count: int


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """What differs. ``denied``: stricter than now, ``allowed``: less strict; most connections first.

    Attributes:
        unchanged, unknown: how many connections.
    """

    denied: tuple[Changed, ...]
    allowed: tuple[Changed, ...]
    unchanged: int
    unknown: int


class _Edge:
    """Views of equal connections, of both sides."""

    __slots__ = ("seen", "tally")

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.tally = Tally()

    def add(self, seen: Seen) -> None:
        self.seen.append(seen)
        self.tally.add(seen)


def compare(
    seen: Sequence[Seen],
    current: Mapping[str, NamespaceState],
    proposed: Mapping[str, NamespaceState],
    *,
    check: Callable[[], None] = lambda: None,
) -> Difference:
    """Decide what was seen by both sets of policies.

    Arguments:
        current, proposed: at least the states of ``blockers.find_namespaces``.
        check: called for each edge; what it raises ends this.
    """
    now = {name: compile_namespace(state) for name, state in current.items()}
    then = {name: compile_namespace(state) for name, state in proposed.items()}
    edges: dict[tuple[object, ...], _Edge] = {}
    for each in fill_in_hosts(seen):
        if not each.is_withheld_readiness:
            edges.setdefault(_name_edge(each), _Edge()).add(each)
    changed: list[Changed] = []
    unchanged = unknown = 0
    for edge in edges.values():
        check()
        count = edge.tally.count()
        decided = _decide(edge.seen, now, then)
        if decided is None:
            unknown += count
        elif decided.before is decided.after:
            unchanged += count
        else:
            changed.append(msgspec.structs.replace(decided, count=count))
    return Difference(
        denied=_order(each for each in changed if each.after > each.before),
        allowed=_order(each for each in changed if each.after < each.before),
        unchanged=unchanged,
        unknown=unknown,
    )


def _decide(
    seen: Iterable[Seen], now: Mapping[str, NamespacePolicy], then: Mapping[str, NamespacePolicy]
) -> Changed | None:
    """Decide one edge as its sides do; None: what was seen doesn't say enough."""
    before, found = Outcome.ALLOW, None
    for each in sorted(seen, key=lambda one: one.last):
        if each.has_failed:
            continue
        if not (name_end(each.destination) or each.destination.address):
            return None  # Several strangers, whose addresses are no longer told apart.
        try:
            attempt = read_attempt(
                each.direction, each.namespace, source=each.source, destination=each.destination, port=each.port
            )
            old, new = judge(attempt, now), judge(attempt, then)
        except (IdentityError, KeyError):
            return None
        before = max(before, _read(old))
        after = _read(new)
        if found is None or after >= found.after:
            found = Changed(before=before, after=after, reason=new.reason, rule=new.rule, seen=each, count=0)
    return None if found is None else msgspec.structs.replace(found, before=before)


def _read(verdict: Verdict) -> Outcome:
    if not verdict.allowed:
        return Outcome.DENY
    return Outcome.WOULD_DENY if verdict.would_deny else Outcome.ALLOW


def _name_edge(seen: Seen) -> tuple[object, ...]:
    """Name what both sides' views of equal connections have in common: whatever a verdict depends on."""
    source, destination = seen.source, seen.destination
    return (
        name_end(source) or find_host(source.address), source.program, source.why,
        name_end(destination) or find_host(destination.address), destination.program, destination.why,
        seen.port, seen.has_failed,
    )  # fmt: skip


def _order(changed: Iterable[Changed]) -> tuple[Changed, ...]:
    return tuple(sorted(changed, key=lambda each: (-each.count, -each.seen.last, each.reason)))
