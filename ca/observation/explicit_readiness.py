"""Is ``explicit`` safe for a namespace? What its sidecars marked or refused, decided again by the current rules.

Belongs here: reading the refusals and grouping what remains by cause. Doesn't: the decision
(``shared.model.policy.replay``). I/O through the store; replaying runs in a worker thread, because thousands of records
would hold the loop up.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ca.store.store import Store
from shared.model.errors import IdentityError
from shared.model.policy.decision import DecisionRecord, Phase
from shared.model.policy.evaluate import NamespacePolicy
from shared.model.policy.reasons import Reason
from shared.model.policy.replay import compile_as, party_namespaces, replay
from shared.model.policy.rules import Direction, Mode
from shared.model.wire.admin import Cause

MAX_REPLAYED: Final = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusals:
    """What explicit mode would refuse of what was seen.

    Attributes:
        causes: most frequent first.
        settled: connections that were marked or refused then and would be allowed now.
        is_truncated: there were more than ``MAX_REPLAYED`` records; the newest were looked at.
    """

    causes: tuple[Cause, ...]
    settled: int
    is_truncated: bool


async def find_refusals(store: Store, namespace: str, *, since: float) -> Refusals:
    """Decide again, as if the namespace were explicit, what its sidecars marked or refused since then.

    Deny rules don't count: they hold in every mode, as intended. Nor do failures that no mode would change.
    """
    records = await store.decisions.list_refusals(namespace, since=since, limit=MAX_REPLAYED + 1)
    is_truncated = len(records) > MAX_REPLAYED
    concerned = [record for record in records[:MAX_REPLAYED] if record.would_deny or record.mode is Mode.EXPLICIT]
    policies = {}
    for name in sorted({namespace}.union(*map(_namespaces, concerned))):
        state = await store.namespaces.get_state(name)
        policies[name] = compile_as(state, Mode.EXPLICIT if name == namespace else state.mode)
    causes, settled = await asyncio.to_thread(_group, concerned, policies)
    return Refusals(causes=causes, settled=settled, is_truncated=is_truncated)


def _namespaces(record: DecisionRecord) -> frozenset[str]:
    try:
        return party_namespaces(record)
    except IdentityError:
        return frozenset()


class _Tally:
    """Counts connections that several records speak of: both sides' records, starts and ends, aggregates.

    A connection has one ID in all its records, but an aggregate names none. So each side's starts and ends are counted
    for themselves, each exactly, and the greatest of these counts holds.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[Direction, Phase], set[str]] = {}
        self._aggregated: Counter[tuple[Direction, Phase]] = Counter()
        self.last_seen = 0.0

    def add(self, record: DecisionRecord) -> None:
        side = (record.direction, record.phase)
        seen = self._seen.setdefault(side, set())
        if record.count == 1:
            seen.add(record.connection)
        else:
            self._aggregated[side] += record.count
        self.last_seen = max(self.last_seen, record.time)

    def count(self) -> int:
        sides = (len(seen) + self._aggregated[side] for side, seen in self._seen.items())
        return max(len(set().union(*self._seen.values())), *sides) if self._seen else 0


def _group(records: Sequence[DecisionRecord], policies: dict[str, NamespacePolicy]) -> tuple[tuple[Cause, ...], int]:
    tallies: dict[tuple[Reason, str, str, str, str, int], _Tally] = {}
    settled = _Tally()
    for record in records:
        reason = _decide_again(record, policies)
        if reason is None:
            settled.add(record)
            continue
        if reason is Reason.DENY_RULE:
            continue
        source, destination = record.source, record.destination
        key = (
            reason,
            source.workload or source.identity or source.listed,
            destination.workload or destination.identity or destination.listed,
            source.program,
            destination.program,
            record.port,
        )
        tallies.setdefault(key, _Tally()).add(record)
    causes = [
        Cause(
            reason=reason,
            source_workload=source_workload,
            destination_workload=destination_workload,
            source_program=source_program,
            destination_program=destination_program,
            port=port,
            connections=tally.count(),
            last_seen=tally.last_seen,
        )
        for (
            reason,
            source_workload,
            destination_workload,
            source_program,
            destination_program,
            port,
        ), tally in tallies.items()
    ]
    causes.sort(key=lambda cause: (-cause.connections, -cause.last_seen))
    return tuple(causes), settled.count()


def _decide_again(record: DecisionRecord, policies: dict[str, NamespacePolicy]) -> Reason | None:
    """Return why the connection would be refused now; None when it would be allowed."""
    try:
        verdict = replay(record, policies)
    except (IdentityError, KeyError):
        return record.reason  # A record that can't be replayed counts as it was: never safer than it looked.
    return None if verdict.allowed else verdict.reason
