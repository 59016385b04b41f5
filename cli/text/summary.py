"""Decisions in groups: equal ones counted once, what matters first. Prints its table; else pure.

Belongs here: what makes two decisions equal for a reader, and their order. Doesn't: filters
(``cli/commands/decisions.py``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from cli.text.decision import describe_answer, describe_party

if TYPE_CHECKING:
    from shared.model.policy.decision import DecisionRecord
    from shared.model.wire.admin import DecisionView

COLUMNS = ("CONNECTIONS", "SIDE", "VERDICT", "REASON", "SOURCE", "PROGRAM", "DESTINATION", "PROGRAM", "PORT", "RULE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What equal decisions have in common: everything but time, connection, a stranger's own port, and issuer.

    Attributes:
        source, destination: the proven workload, or ``unidentified`` and the address.
    """

    direction: str
    answer: str
    would_deny: bool
    weak: bool
    transport: str
    verdict: str
    reason: str
    source: str
    source_program: str
    destination: str
    destination_program: str
    port: int
    rule: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Equal decisions.

    Attributes:
        connections: how many there were; a connection counts once however many records it left.
        last_seen: seconds since the epoch.
        issuers: who signed the peers' certificates.
    """

    kind: Kind
    connections: int
    last_seen: float
    issuers: tuple[str, ...]

    def as_row(self) -> SummaryRow:
        """Return the group as one flat object."""
        return SummaryRow(
            connections=self.connections, **asdict(self.kind), last_seen=self.last_seen, issuers=list(self.issuers)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryRow:
    """A group as ``--json`` prints it."""

    connections: int
    direction: str
    answer: str
    would_deny: bool
    weak: bool
    transport: str
    verdict: str
    reason: str
    source: str
    source_program: str
    destination: str
    destination_program: str
    port: int
    rule: str
    last_seen: float
    issuers: list[str]


def group_decisions(views: Iterable[DecisionView]) -> list[Group]:
    """Group decisions: refused ones first, then marked, then allowed; the most frequent first in each."""
    records: dict[Kind, list[DecisionRecord]] = {}
    for view in views:
        records.setdefault(_describe(view.record), []).append(view.record)
    return sorted((_count(kind, equal) for kind, equal in records.items()), key=_rank)


def print_summary(views: Iterable[DecisionView]) -> None:
    """Print the groups as a table."""
    from cli.text.output import print_line, print_table, shorten

    groups = group_decisions(views)
    rows = (
        (
            str(group.connections),
            group.kind.direction,
            group.kind.verdict,
            group.kind.reason,
            group.kind.source,
            shorten(group.kind.source_program),
            group.kind.destination,
            shorten(group.kind.destination_program),
            str(group.kind.port),
            group.kind.rule or "-",
        )
        for group in groups
    )
    print_table(COLUMNS, rows, empty="no matching decisions")
    if groups:
        print_line("Each side decides: a connection between two sidecars is counted at egress and at ingress.")


def _describe(record: DecisionRecord) -> Kind:
    source = describe_party(record.source)
    if not record.source.workload:
        source = source.rpartition(":")[0] or source  # Each connection of a stranger has another port.
    return Kind(
        direction=record.direction.value,
        answer=record.answer.value,
        would_deny=record.would_deny,
        weak=record.weak,
        transport=record.transport.value,
        verdict=describe_answer(record),
        reason=record.reason.value,
        source=source,
        source_program=record.source.program,
        destination=describe_party(record.destination),
        destination_program=record.destination.program,
        port=record.port,
        rule=record.rule,
    )


def _count(kind: Kind, records: list[DecisionRecord]) -> Group:
    # A long connection leaves a record at its start and one at its end; an aggregate stands for many connections.
    single = {record.connection or str(index) for index, record in enumerate(records) if record.count == 1}
    return Group(
        kind=kind,
        connections=len(single) + sum(record.count for record in records if record.count > 1),
        last_seen=max(record.time for record in records),
        issuers=tuple(sorted({record.issuer for record in records if record.issuer})),
    )


def _rank(group: Group) -> tuple[int, int, float]:
    severity = 0 if group.kind.answer == "deny" else 1 if group.kind.would_deny else 2
    return severity, -group.connections, -group.last_seen
