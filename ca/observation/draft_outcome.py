"""How connections would have gone by a namespace's draft, as its sidecars have recorded. I/O through the store.

Belongs here: what is read of the decisions' log, and counting it. Doesn't: the verdicts, which the sidecars gave, or
which sidecars evaluate it (``ca/api/policies/drafts.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from msgspec import UNSET

from ca.observation.judging import judge
from ca.store.drafts.drafts import no_draft
from ca.store.history.generations import BEFORE, MAX_GENERATIONS, Generation
from ca.store.store import Store
from shared.model.adoption.seen import Seen, Tally, name_end, see_record
from shared.model.policy.decision import (
    Answer,
    DecisionRecord,
    DraftChange,
    DraftVerdict,
    PartyRecord,
    compare_draft,
    name_draft,
)
from shared.model.policy.reasons import Reason
from shared.model.wire.admin import DecidedOtherwise, DraftView

MAX_RECORDS: Final = 10_000
MAX_SHOWN: Final = 1000
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
    records = await store.decisions.list_drafted(namespace, since=known.written, limit=MAX_RECORDS)
    name = name_draft(namespace, known.draft.number)
    denied, allowed = await judge(lambda check: count_otherwise(records, name, check=check))
    generations = await store.history.list_generations(namespace, limit=MAX_GENERATIONS)
    return DraftView(
        namespace=namespace,
        draft=known.draft,
        written=known.written,
        denied=denied[:MAX_SHOWN],
        allowed=allowed[:MAX_SHOWN],
        unchanged=await store.decisions.count_drafted(namespace, since=known.written),
        is_truncated=len(records) >= MAX_RECORDS or max(len(denied), len(allowed)) > MAX_SHOWN,
        is_outdated=await judge(lambda _: has_changed_since(generations, known.written)),
    )


def has_changed_since(generations: Sequence[Generation], time: float) -> bool:
    """Tell whether the policy in force has changed since then, but for its modes; not what no history tells.

    Arguments:
        generations: newest first.
    """
    # What the history began with was there before, whenever it was written down.
    then = next((each for each in generations if each.time <= time or each.act == BEFORE), None)
    if then is None or then is generations[0]:
        return False
    contents = then.content, generations[0].content
    before, now = ((bytes(each.rules), each.group_label, bytes(each.requires)) for each in contents)
    return before != now


class _Equal:
    """Equal decisions, as both sides recorded them."""

    __slots__ = ("newest", "tally")

    def __init__(self) -> None:
        self.newest: Seen | None = None
        self.tally = Tally()

    def add(self, seen: Seen) -> None:
        self.tally.add(seen)
        if self.newest is None or seen.last > self.newest.last:
            self.newest = seen


def count_otherwise(
    records: Sequence[DecisionRecord], draft: str, *, check: Callable[[], None] = lambda: None
) -> tuple[tuple[DecidedOtherwise, ...], tuple[DecidedOtherwise, ...]]:
    """Return what a draft decides more strictly, and what less; most connections first.

    Arguments:
        draft: its name in records; those of other drafts are passed over.
        check: called for each record; what it raises ends this.
    """
    found: dict[DraftChange, dict[_Key, _Equal]] = {each: {} for each in DraftChange}
    for record in records:
        check()
        verdict = record.draft
        if verdict is not UNSET and draft in verdict.drafts:
            key = _name(record, verdict)
            found[compare_draft(record)].setdefault(key, _Equal()).add(see_record(record))
    denied, allowed = (_list(found[each]) for each in (DraftChange.DENIED, DraftChange.ALLOWED))
    return denied, allowed


def _name(record: DecisionRecord, verdict: DraftVerdict) -> _Key:
    """Return what equal decisions have in common, whichever side recorded them."""
    source, destination = record.source, record.destination
    return (
        _say(record), _say(verdict), verdict.reason, verdict.rule, _name_party(source), source.program,
        _name_party(destination), destination.program, record.port,
    )  # fmt: skip


def _list(found: dict[_Key, _Equal]) -> tuple[DecidedOtherwise, ...]:
    listed = []
    for (
        before,
        after,
        reason,
        rule,
        source,
        source_program,
        destination,
        destination_program,
        port,
    ), equal in found.items():
        newest = equal.newest
        if newest is None:
            continue
        listed.append(
            DecidedOtherwise(
                before=before,
                after=after,
                side=newest.direction,
                reason=reason,
                rule=rule,
                source=source,
                source_program=source_program,
                destination=destination,
                destination_program=destination_program,
                port=port,
                service=newest.service,
                path=newest.path,
                connections=equal.tally.count(),
                last_seen=newest.last,
            )
        )
    return tuple(sorted(listed, key=lambda each: (-each.connections, -each.last_seen, each.reason)))


def _say(decided: DecisionRecord | DraftVerdict) -> str:
    if decided.answer is Answer.DENY:
        return "deny"
    return "would deny" if decided.would_deny else "allow"


def _name_party(party: PartyRecord) -> str:
    return name_end(party) or party.address.rpartition(":")[0] or "unidentified"
