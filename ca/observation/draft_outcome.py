"""How connections would have gone by a namespace's draft, as its sidecars have recorded. I/O through the store.

Belongs here: what is read of the edges, and counting it. Doesn't: the verdicts, which the sidecars gave, or
which sidecars evaluate it (``ca/api/policies/drafts.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from ca.observation.judging import judge
from ca.store.drafts.drafts import StoredDraft, no_draft
from ca.store.edges.edge import DraftedEdge, EdgeKey
from ca.store.history.generations import BEFORE, MAX_GENERATIONS, Generation
from ca.store.store import Store
from shared.model.adoption.blockers import find_allowed, find_namespaces, list_missing_changes
from shared.model.adoption.fixes import Fix, FixKind, advise
from shared.model.adoption.seen import Seen, name_end
from shared.model.policy.decision import Answer, DraftVerdict, PartyRecord, is_stricter
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import (
    Direction,
    Mode,
    NamespaceState,
    PolicyDraft,
    Requirement,
    WorkloadMode,
    list_hosts,
    put_draft_in_force,
)
from shared.model.wire.admin import DecidedOtherwise, DraftView

MAX_SHOWN: Final = 1000
# What approvals, or other namespaces' rules, settle. What else refuses a connection is of the process, the socket or
# the address, which edges don't keep: decided again without them, it would pass.
_SETTLING: Final = frozenset({
    Reason.PROGRAM_NOT_APPROVED, Reason.LISTENER_NOT_APPROVED, Reason.NO_RULE, Reason.FOREIGN_NOT_ALLOWED,
})  # fmt: skip
# Both verdicts, the draft's reason and rule, both ends with their programs, the port.
_Key = tuple[str, str, Reason, str, str, str, str, str, int]


async def view_draft(store: Store, namespace: str) -> DraftView:
    """Return a namespace's draft and how connections would have gone by it.

    Raises:
        NotFoundError: it has none.
    """
    known = await store.drafts.get(namespace)
    if known is None:
        raise no_draft(namespace)
    window = await store.edges.list_drafted(namespace, known.draft.number, written=known.written)
    stricter, allowed = await judge(lambda check: count_otherwise(window.edges, check=check))
    shown = stricter[:MAX_SHOWN]
    names = sorted(find_namespaces(_see(each.newest) for each in shown))
    states = {name: await store.namespaces.get_state(name) for name in names}
    denied, settled = await judge(lambda check: add_fixes(shown, states, check=check))
    return DraftView(
        namespace=namespace,
        draft=known.draft,
        written=known.written,
        denied=denied,
        settled=settled,
        allowed=tuple(each.changed for each in allowed[:MAX_SHOWN]),
        unchanged=window.unchanged,
        uncounted=window.uncounted,
        evaluated_since=window.since,
        is_truncated=window.is_truncated or max(len(stricter), len(allowed)) > MAX_SHOWN,
        is_partly_unknown=is_partly_unknown(known.draft, await store.namespaces.get_state(namespace)),
        is_outdated=await is_outdated(store, namespace, known),
        is_object=known.is_object,
    )


async def is_outdated(store: Store, namespace: str, known: StoredDraft) -> bool:
    """Tell whether the policy in force has changed since a draft was written, into another one than the draft."""
    generations = await store.history.list_generations(namespace, limit=MAX_GENERATIONS)
    draft, state = known.draft, await store.namespaces.get_state(namespace)
    drafted = (draft.rules, draft.group_label, draft.requires)
    return await judge(
        lambda _: has_changed_since(
            generations,
            known.written,
            mode=draft.mode,
            workload_modes=draft.workload_modes,
            are_rules_drafted=drafted == (state.rules, state.group_label, state.requires),
        )
    )


def is_partly_unknown(draft: PolicyDraft, state: NamespaceState) -> bool:
    """Tell whether there are connections of which sidecars can't say what the draft would make of them.

    They look only at what the policy in force asks for: who made a socket, a program whose origin it refuses, and names
    of hosts, unless another rule has answered (``sidecar/connection/drafts.py``).
    """
    enforced, drafted = set(state.requires), set(draft.requires)
    return (
        bool((enforced - drafted) & {Requirement.CONTAINER_ORIGIN, Requirement.OWN_SOCKETS})
        or Requirement.OWN_SOCKETS in drafted - enforced
        or (bool(list_hosts(draft.rules)) and draft.rules != state.rules)
    )


def has_changed_since(
    generations: Sequence[Generation],
    time: float,
    *,
    mode: Mode | None,
    workload_modes: tuple[WorkloadMode, ...] | None = None,
    are_rules_drafted: bool = False,
) -> bool:
    """Tell whether the policy in force has changed since then; not what no history tells.

    Arguments:
        generations: newest first.
        mode: the draft's; where it has none, or the one that is in force now, the mode's change doesn't matter.
        workload_modes: likewise.
        are_rules_drafted: the rules that are in force now are the draft's: a promotion that the CA has put in force
            after its command had given up takes nothing back.
    """
    # What the history began with was there before, whenever it was written down.
    then = next((each for each in generations if each.time <= time or each.act == BEFORE), None)
    if then is None or then is generations[0]:
        return False
    contents = then.content, generations[0].content
    if mode is not None and contents[0].mode != contents[1].mode != mode:
        return True
    modes = tuple(each.workload_modes for each in contents)
    if workload_modes is not None and modes[0] != modes[1] != workload_modes:
        return True
    before, now = ((bytes(each.rules), each.group_label, bytes(each.requires)) for each in contents)
    return before != now and not are_rules_drafted


class Counted(NamedTuple):
    """Equal connections that a draft decides otherwise, and what was seen of them last."""

    changed: DecidedOtherwise
    newest: DraftedEdge


class _Equal:
    """Equal connections, as both sides counted them."""

    __slots__ = ("counts", "newest")

    def __init__(self, newest: DraftedEdge) -> None:
        self.newest = newest
        self.counts: Counter[Direction] = Counter()

    def add(self, edge: DraftedEdge) -> None:
        self.counts[edge.key.side] += edge.connections
        if edge.last > self.newest.last:
            self.newest = edge


def count_otherwise(
    edges: Sequence[DraftedEdge], *, check: Callable[[], None] = lambda: None
) -> tuple[list[Counted], list[Counted]]:
    """Return what a draft decides more strictly, and what less; most connections first.

    Each side counts a connection for itself: where both say the same of it, the greater count holds.

    Arguments:
        check: called for each edge; what it raises ends this.
    """
    denied: dict[_Key, _Equal] = {}
    allowed: dict[_Key, _Equal] = {}
    for edge in edges:
        check()
        found = denied if is_stricter(edge.verdict, edge.key) else allowed
        key = _name(edge.key, edge.verdict)
        if key not in found:
            found[key] = _Equal(edge)
        found[key].add(edge)
    return _list(denied), _list(allowed)


def add_fixes(
    denied: Sequence[Counted], states: Mapping[str, NamespaceState], *, check: Callable[[], None] = lambda: None
) -> tuple[tuple[DecidedOtherwise, ...], tuple[DecidedOtherwise, ...]]:
    """Return what a draft decides more strictly, each with what would let it pass by its rules; and what it did before.

    The verdicts are of when the connections were made: a program that was approved since is refused no more.

    Arguments:
        states: of all namespaces that these speak of; their drafts are put in force.

    Returns:
        What is refused by now as well, and what isn't, as far as what was seen tells.
    """
    drafted = {
        name: state if state.draft is None else put_draft_in_force(state, state.draft) for name, state in states.items()
    }
    seen = [_see(each.newest) for each in denied]
    missing = list_missing_changes(seen, drafted, check=check)
    is_allowed = find_allowed(seen, drafted, check=check)
    refused, settled = [], []
    for each, fixes, is_settled in zip(denied, missing, is_allowed, strict=True):
        if is_settled and _may_settle(each.changed, drafted):
            settled.append(each.changed)
        else:
            refused.append(msgspec.structs.replace(each.changed, fixes=fixes or (_advise(each.changed),)))
    return tuple(refused), tuple(settled)


def _may_settle(changed: DecidedOtherwise, drafted: Mapping[str, NamespaceState]) -> bool:
    """Tell whether what refused it can have changed since: an approval, or rules; a deny rule, if it is gone."""
    if changed.reason is not Reason.DENY_RULE:
        return changed.reason in _SETTLING
    namespace, _, name = changed.rule.partition("/")
    return namespace in drafted and all(rule.name != name for rule in drafted[namespace].rules)


def _advise(changed: DecidedOtherwise) -> Fix:
    if changed.reason is Reason.DENY_RULE:
        return Fix(
            kind=FixKind.ADVICE, advice=f"The rule {changed.rule} denies it: change that rule if it should pass."
        )
    if changed.reason not in _SETTLING:
        return advise(changed.reason)
    return Fix(kind=FixKind.ADVICE, advice="By now a deny rule refuses it: `touchmark explain` names the rule.")


def _see(edge: DraftedEdge) -> Seen:
    """Return what the draft says of an edge's connections, as if they had been decided so."""
    key, verdict = edge.key, edge.verdict
    return Seen(
        direction=key.side,
        namespace=key.namespace,
        source=key.source,
        destination=key.destination,
        port=key.port,
        answer=verdict.answer,
        would_deny=verdict.would_deny,
        reason=verdict.reason,
        mode=key.mode,
        service=key.service,
        source_address=edge.evidence.source,
        destination_address=edge.evidence.destination,
        last=edge.last,
    )


def _name(edge: EdgeKey, verdict: DraftVerdict) -> _Key:
    """Return what equal connections have in common, whichever side counted them."""
    source, destination = edge.source, edge.destination
    return (
        _say(edge), _say(verdict), verdict.reason, verdict.rule, _name_party(source), source.program,
        _name_party(destination), destination.program, edge.port,
    )  # fmt: skip


def _list(found: dict[_Key, _Equal]) -> list[Counted]:
    listed = []
    for key, equal in found.items():
        newest = equal.newest
        before, after, reason, rule, source, source_program, destination, destination_program, port = key
        changed = DecidedOtherwise(
            before=before,
            after=after,
            side=newest.key.side,
            reason=reason,
            rule=rule,
            source=source,
            source_program=source_program,
            destination=destination,
            destination_program=destination_program,
            port=port,
            service=newest.key.service,
            path=newest.evidence.path,
            connections=max(equal.counts.values()),
            last_seen=newest.last,
        )
        listed.append(Counted(changed=changed, newest=newest))
    listed.sort(key=lambda each: (-each.changed.connections, -each.changed.last_seen, each.changed.reason))
    return listed


def _say(decided: EdgeKey | DraftVerdict) -> str:
    if decided.answer is Answer.DENY:
        return "deny"
    return "would deny" if decided.would_deny else "allow"


def _name_party(party: PartyRecord) -> str:
    return name_end(party) or party.address or "several addresses"
