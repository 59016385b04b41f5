"""Is ``explicit`` safe for a namespace? What its sidecars marked or refused, decided again by the current rules.

Belongs here: reading the refusals and grouping what remains by cause. Doesn't: the decision
(``shared.model.policy.replay``). I/O through the store; replaying runs in a worker thread, because thousands of records
would hold the loop up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ca.store.store import Store
from shared.model.errors import IdentityError
from shared.model.policy.decision import DecisionRecord
from shared.model.policy.evaluate import NamespacePolicy
from shared.model.policy.reasons import Reason
from shared.model.policy.replay import compile_as, party_namespaces, replay
from shared.model.policy.rules import Mode
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


def _group(records: Sequence[DecisionRecord], policies: dict[str, NamespacePolicy]) -> tuple[tuple[Cause, ...], int]:
    connections: dict[tuple[Reason, str, str, str, str, int], dict[str, int]] = {}
    last_seen: dict[tuple[Reason, str, str, str, str, int], float] = {}
    settled: dict[str, int] = {}
    for record in records:
        reason = _decide_again(record, policies)
        if reason is None:
            settled[record.connection] = record.count
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
        connections.setdefault(key, {})[record.connection] = record.count
        last_seen[key] = max(last_seen.get(key, 0.0), record.time)
    causes = [
        Cause(
            reason=key[0],
            source_workload=key[1],
            destination_workload=key[2],
            source_program=key[3],
            destination_program=key[4],
            port=key[5],
            connections=sum(counts.values()),
            last_seen=last_seen[key],
        )
        for key, counts in connections.items()
    ]
    causes.sort(key=lambda cause: (-cause.connections, -cause.last_seen))
    return tuple(causes), sum(settled.values())


def _decide_again(record: DecisionRecord, policies: dict[str, NamespacePolicy]) -> Reason | None:
    """Return why the connection would be refused now; None when it would be allowed."""
    try:
        verdict = replay(record, policies)
    except (IdentityError, KeyError):
        return record.reason  # A record that can't be replayed counts as it was: never safer than it looked.
    return None if verdict.allowed else verdict.reason
