"""What a batch of decision records adds to the edges. Pure.

A connection has one record at its end and, if it lives long, one when it has become so; each side writes its own.
``has_started`` at the end says that there was one at the start. So each connection is counted once, whatever the order
in which batches arrive: sums don't depend on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

import msgspec

from ca.store.edges.edge import EdgeEvidence, EdgeKey
from shared.model.policy.decision import DecisionRecord, DraftChange, DraftVerdict, PartyRecord, Phase, compare_draft
from shared.model.policy.rules import Direction

DAY_HOURS: Final = 24
HOUR_S: Final = 3600
# A clock that is further ahead of the CA's isn't believed; nor is one that is behind by more than an outage lasts.
MAX_AHEAD_S: Final = 600.0
MAX_BEHIND_S: Final = 7 * 86_400.0
MAX_PODS: Final = 8
MAX_BYTES: Final = 2**50  # Of one record: more is no count of bytes, and sums of this many stay within 64 bits.
_MAX_DETAIL_CHARACTERS: Final = 200
_K = TypeVar("_K")
_encoder: Final = msgspec.json.Encoder()


# Which draft, and its verdict without its name; None: it changes nothing.
Drafted = tuple[str, DraftVerdict | None]


@dataclass(slots=True, kw_only=True)
class Sum:
    """What is added to one edge in one hour."""

    opened: int = 0
    ended: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    first: float
    last: float

    def add(self, record: DecisionRecord, time: float) -> None:
        """Add a record."""
        is_end = record.phase is Phase.END
        if not is_end or record.has_started is not True:
            self.opened += record.count
        if is_end:
            self.ended += record.count
            self.bytes_sent += _bound(record.bytes_sent)
            self.bytes_received += _bound(record.bytes_received)
        self.first = min(self.first, time)
        self.last = max(self.last, time)


@dataclass(slots=True, kw_only=True)
class Addition:
    """What is added to one edge: by hour, by what drafts said of it, and the newest record as evidence."""

    key: EdgeKey
    newest: DecisionRecord
    newest_time: float
    sums: dict[int, Sum]
    drafted: dict[Drafted, Sum] = field(default_factory=dict)


def tally(records: Sequence[DecisionRecord], *, reporter: str, now: float) -> dict[str, Addition]:
    """Return what the records add, by the edges' digests.

    What isn't a connection (a listener whose readiness is withheld) adds nothing.

    Arguments:
        reporter: the workload whose sidecar reports; it is at its own end, where a record doesn't name it.
        now: the CA's clock; a record whose time can't be believed counts as of now.
    """
    by_key: dict[EdgeKey, Addition] = {}
    for record in records:
        if not (record.source.address or record.source.workload or record.source.listed or record.source.identity):
            continue
        time = place_in_time(record.time, now=now)
        key = make_key(record, reporter=reporter)
        addition = by_key.get(key)
        if addition is None:
            addition = by_key[key] = Addition(key=key, newest=record, newest_time=time, sums={})
        elif time >= addition.newest_time:
            addition.newest, addition.newest_time = record, time
        hour = int(time // HOUR_S)
        total = addition.sums.get(hour)
        if total is None:
            total = addition.sums[hour] = Sum(first=time, last=time)
        total.add(record, time)
        if record.draft is not msgspec.UNSET:
            _add_drafted(addition, record, record.draft, time)
    return {digest_key(key): addition for key, addition in by_key.items()}


def _add_drafted(addition: Addition, record: DecisionRecord, verdict: DraftVerdict, time: float) -> None:
    is_same = compare_draft(record) is DraftChange.SAME
    said = None if is_same else msgspec.structs.replace(verdict, drafts=())
    for name in dict.fromkeys(verdict.drafts):
        total = addition.drafted.get((name, said))
        if total is None:
            total = addition.drafted[name, said] = Sum(first=time, last=time)
        total.add(record, time)


def digest_key(key: EdgeKey) -> str:
    """Return what an edge is found by."""
    return hashlib.sha256(_encoder.encode(key)).hexdigest()


def count_connections(addition: Addition) -> int:
    """Return how many connections an addition speaks of."""
    return sum(max(each.opened, each.ended) for each in addition.sums.values())


def without_address(addition: Addition) -> Addition | None:
    """Return it as one of an end without a name among several; None where both ends have a name."""
    key = addition.key
    if not (key.source.address or key.destination.address):
        return None
    source, destination = (msgspec.structs.replace(party, address="") for party in (key.source, key.destination))
    return replace(addition, key=msgspec.structs.replace(key, source=source, destination=destination))


def merge(one: Addition, other: Addition) -> Addition:
    """Return two additions to the same edge as one."""
    newest = max((one, other), key=lambda each: each.newest_time)
    return replace(newest, sums=_merge(one.sums, other.sums), drafted=_merge(one.drafted, other.drafted))


def _merge(one: dict[_K, Sum], other: dict[_K, Sum]) -> dict[_K, Sum]:
    sums = {key: replace(each) for key, each in one.items()}
    for key, each in other.items():
        known = sums.get(key)
        sums[key] = each if known is None else _join(known, each)
    return sums


def _join(one: Sum, other: Sum) -> Sum:
    return Sum(
        opened=one.opened + other.opened,
        ended=one.ended + other.ended,
        bytes_sent=one.bytes_sent + other.bytes_sent,
        bytes_received=one.bytes_received + other.bytes_received,
        first=min(one.first, other.first),
        last=max(one.last, other.last),
    )


def _bound(count: int) -> int:
    return max(0, min(count, MAX_BYTES))


def place_in_time(time: float, *, now: float) -> float:
    """Return a record's time, or the CA's where the sidecar's clock can't be believed."""
    return time if now - MAX_BEHIND_S <= time <= now + MAX_AHEAD_S else now


def make_key(record: DecisionRecord, *, reporter: str) -> EdgeKey:
    """Return which edge a record speaks of."""
    is_egress = record.direction is Direction.EGRESS
    source = _name_end(record.source, reporter if is_egress else "")
    destination = _name_end(record.destination, "" if is_egress else reporter)
    return EdgeKey(
        side=record.direction,
        namespace=record.namespace,
        source=source,
        destination=destination,
        port=record.port,
        service=(record.service or "") if is_egress else "",
        transport=record.transport,
        answer=record.answer,
        would_deny=record.would_deny,
        reason=record.reason,
        rule=record.rule,
        mode=record.mode,
    )


def make_evidence(addition: Addition, before: EdgeEvidence) -> EdgeEvidence:
    """Return an edge's evidence, renewed by its newest record."""
    record = addition.newest
    pods = before.pods
    if record.sidecar not in pods:
        pods = (*pods, record.sidecar)[-MAX_PODS:]
    return EdgeEvidence(
        pods=pods,
        source=record.source.address,
        destination=record.destination.address,
        path=record.process.path,
        detail=record.detail[:_MAX_DETAIL_CHARACTERS],
        connection=record.connection,
        time=addition.newest_time,
    )


def _name_end(party: PartyRecord, reporter: str) -> PartyRecord:
    listed = party.listed or ("" if party.workload else reporter)
    is_named = bool(party.workload or listed or party.identity)
    host = "" if is_named else party.address.rpartition(":")[0].strip("[]")
    return PartyRecord(
        address=host,
        workload=party.workload,
        listed=listed,
        program=party.program,
        # Of our own workloads the identity says nothing that isn't said.
        identity="" if party.workload else party.identity,
        why=party.why,
        hosts=party.hosts,
    )


def find_first_day(now: float) -> int:
    """Return the first day, and so PostgreSQL's first partition, to which anything may be added: no record is older."""
    return int((now - MAX_BEHIND_S) // HOUR_S) // DAY_HOURS
