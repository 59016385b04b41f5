"""Both sides' views of edges joined: who talks to whom, each connection counted once. Pure.

The source's sidecar saw every connection of its own, the destination's only what reached it. So the source's numbers
hold, and the destination's where no source reports. What doesn't name a program (a plaintext connection's other end, a
destination that was refused before it was known) is joined with the other side's view where only one fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from ca.store.edges.edge import StoredEdge
from shared.model.policy.decision import Answer, PartyRecord
from shared.model.policy.rules import Direction
from shared.model.wire.admin_edges import NAMELESS, EdgeEnd, EdgeOutcome, EdgeView

_BOTH: Final = (Direction.EGRESS, Direction.INGRESS)
_Name = tuple[str, str, int, str, str]  # The ends' names, the port, and the ends' programs.


@dataclass(frozen=True, slots=True)
class _Group:
    """Views with the same programs at both ends, of both sides."""

    source_program: str
    destination_program: str
    of_source: list[StoredEdge]
    of_destination: list[StoredEdge]

    def may_be(self, reported_by_source: _Group) -> bool:
        """Tell whether these connections may be those, which the source's side reported."""
        other = reported_by_source
        return self.source_program in ("", other.source_program) and other.destination_program in (
            "",
            self.destination_program,
        )


def join_edges(rows: Iterable[StoredEdge]) -> list[EdgeView]:
    """Join both sides' views; in the order of names, programs and ports."""
    # A list for each pair of programs is all that is made before its view: a day has thousands.
    groups: dict[_Name, list[StoredEdge]] = {}
    for row in rows:
        key = row.key
        source, destination = key.source, key.destination
        name = (
            source.workload or name_party(source), destination.workload or name_party(destination), key.port,
            source.program, destination.program,
        )  # fmt: skip
        found = groups.get(name)
        if found is None:
            groups[name] = [row]
        else:
            found.append(row)
    # A pair's edges have its names and its port, so that most are in order once the pairs are.
    ordered = sorted(groups.items(), key=lambda group: (group[0][0] or NAMELESS, group[0][1] or NAMELESS, group[0][2]))
    views: list[EdgeView] = []
    for _, of_pair in groupby(ordered, key=lambda group: group[0][:3]):
        views += _join_pair(list(of_pair))
    return views


def name_party(party: PartyRecord) -> str:
    """Return the name by which both sides know an end."""
    return party.workload or party.identity or party.listed or party.address


def _join_pair(found: Sequence[tuple[_Name, list[StoredEdge]]]) -> list[EdgeView]:
    """Join a pair's views, in the order of programs."""
    if len(found) == 1:
        rows = found[0][1]
        if len(rows) == 2 and rows[0].key.side is not rows[1].key.side:  # As most are.
            return [make_view_of_both(*(rows if rows[0].key.side is Direction.EGRESS else rows[::-1]))]
        return [make_view(*_divide(rows))]
    groups = [_Group(name[3], name[4], *_divide(rows)) for name, rows in found]
    sources = [group for group in groups if group.of_source]
    lone = [group for group in groups if not group.of_source]
    fitting = {id(each): [source for source in sources if each.may_be(source)] for each in lone}
    views, taken = [], set()
    for source in sources:
        fits = [each for each in lone if source in fitting[id(each)]]
        if len(fits) == 1 and len(fitting[id(fits[0])]) == 1 and not source.of_destination:
            taken.add(id(fits[0]))
            views.append(make_view(source.of_source, fits[0].of_destination))
        else:
            views.append(make_view(source.of_source, source.of_destination))
    views += [
        make_view([], each.of_destination, is_counted=not fitting[id(each)]) for each in lone if id(each) not in taken
    ]
    views.sort(key=lambda view: (view.source.program, view.destination.program))
    return views


def _divide(rows: Sequence[StoredEdge]) -> tuple[list[StoredEdge], list[StoredEdge]]:
    """Return what the source's side reported, and what the destination's."""
    if len(rows) == 1:
        return ([*rows], []) if rows[0].key.side is Direction.EGRESS else ([], [*rows])
    of_source = [row for row in rows if row.key.side is Direction.EGRESS]
    return of_source, [row for row in rows if row.key.side is not Direction.EGRESS]


def make_view_of_both(ours: StoredEdge, other: StoredEdge) -> EdgeView:
    """Return what ``make_view`` does of one view of the source's side and one of the destination's, in less time."""
    key, its = ours.key, other.key
    outcomes = _make_outcome(ours), _make_outcome(other)
    # The strictest is first; of two that are equally strict the source's.
    is_stricter = (its.answer is not Answer.DENY, not its.would_deny) < (
        key.answer is not Answer.DENY,
        not key.would_deny,
    )
    return EdgeView(
        source=_make_end_of_both(key.source, its.source, ours),
        destination=_make_end_of_both(key.destination, its.destination, other),
        port=key.port,
        connections=ours.opened,
        bytes_sent=ours.bytes_sent,
        bytes_received=ours.bytes_received,
        first=min(ours.first, other.first),
        last=max(ours.last, other.last),
        reported_by=_BOTH,
        outcomes=outcomes[::-1] if is_stricter else outcomes,
        is_lossy=ours.is_lossy or other.is_lossy,
    )


def _make_end_of_both(ours: PartyRecord, other: PartyRecord, own: StoredEdge) -> EdgeEnd:
    evidence = own.evidence
    return EdgeEnd(
        workload=ours.workload or other.workload,
        listed=ours.listed or other.listed,
        identity=ours.identity or other.identity,
        address=ours.address or other.address,
        program=ours.program,  # They wouldn't be together otherwise.
        path=evidence.path,
        pods=evidence.pods if len(evidence.pods) < 2 else tuple(sorted(evidence.pods)),
    )


def make_view(
    of_source: Sequence[StoredEdge], of_destination: Sequence[StoredEdge], *, is_counted: bool = True
) -> EdgeView:
    """Return one edge of what each side's sidecars reported of it."""
    rows = [*of_source, *of_destination]
    keys = [row.key for row in rows]
    counting = of_source or of_destination
    sides = ((Direction.EGRESS, of_source), (Direction.INGRESS, of_destination))
    return EdgeView(
        source=_make_end([key.source for key in keys], of_source),
        destination=_make_end([key.destination for key in keys], of_destination),
        port=keys[0].port,
        connections=sum([row.opened for row in counting]),
        bytes_sent=sum([row.bytes_sent for row in counting]),
        bytes_received=sum([row.bytes_received for row in counting]),
        first=min([row.first for row in rows]),
        last=max([row.last for row in rows]),
        reported_by=tuple([side for side, its in sides if its]),
        outcomes=tuple(sorted([_make_outcome(row) for row in rows], key=_order)),
        is_counted=is_counted,
        is_lossy=True in [row.is_lossy for row in rows],
    )


def _make_end(parties: Sequence[PartyRecord], own: Sequence[StoredEdge]) -> EdgeEnd:
    """Say who is at one end.

    Arguments:
        own: the views of this end's own sidecar.
    """
    workload = listed = identity = address = program = path = ""
    # Both sides mostly say the same.
    for party in parties[:1] if len(parties) == 2 and parties[0] == parties[1] else parties:
        workload, listed = workload or party.workload, listed or party.listed
        identity, address = identity or party.identity, address or party.address
        program = program or party.program
    pods: tuple[str, ...] = ()
    if len(own) == 1:  # As most are; what one view has is there once.
        path, pods = own[0].evidence.path, tuple(sorted(own[0].evidence.pods))
    elif own:
        path = max(own, key=lambda row: row.evidence.time).evidence.path
        pods = tuple(sorted({pod for row in own for pod in row.evidence.pods}))
    return EdgeEnd(
        workload=workload, listed=listed, identity=identity, address=address, program=program, path=path, pods=pods
    )


def _make_outcome(row: StoredEdge) -> EdgeOutcome:
    key = row.key
    return EdgeOutcome(
        side=key.side,
        answer=key.answer,
        would_deny=key.would_deny,
        reason=key.reason,
        rule=key.rule,
        mode=key.mode,
        transport=key.transport,
        service=key.service,
        connections=row.connections,
        first=row.first,
        last=row.last,
        why_source=key.source.why,
        why_destination=key.destination.why,
        detail=row.evidence.detail,
    )


def _order(outcome: EdgeOutcome) -> tuple[object, ...]:
    return (
        outcome.answer is not Answer.DENY, not outcome.would_deny, outcome.side, outcome.reason, outcome.rule,
        outcome.mode, outcome.transport, outcome.service, outcome.why_source, outcome.why_destination,
    )  # fmt: skip
