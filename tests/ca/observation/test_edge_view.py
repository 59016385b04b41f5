"""Both sides' views are joined so that each connection counts once."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from ca.observation.edge_view import join_edges, make_view, make_view_of_both
from shared.model.policy.decision import Answer, PartyRecord, Transport
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction
from tests.ca.observation.edges import A, B, C, make_edge

WEB, DB = "shop/web", "shop/db"
INGRESS: dict[str, Any] = {"side": Direction.INGRESS}


def test_both_sides_reports_are_one_edge_and_the_source_counts() -> None:
    (edge,) = join_edges(
        [make_edge(opened=7, path="/bin/web"), make_edge(opened=6, path="/bin/db", rule="db", **INGRESS)]
    )
    assert (edge.connections, edge.bytes_sent, edge.bytes_received) == (7, 2, 3)
    assert edge.reported_by == (Direction.EGRESS, Direction.INGRESS)
    assert (edge.source.path, edge.destination.path) == ("/bin/web", "/bin/db")
    assert [(one.side, one.rule, one.connections) for one in edge.outcomes] == [
        (Direction.EGRESS, "web", 7),
        (Direction.INGRESS, "db", 6),
    ]


def test_where_one_end_alone_reports_the_edge_says_so() -> None:
    stranger: dict[str, Any] = {"source": PartyRecord(address="198.18.0.9"), "transport": Transport.PLAINTEXT}
    (edge,) = join_edges([make_edge(opened=4, **INGRESS, **stranger)])
    assert (edge.connections, edge.reported_by, edge.source.name) == (4, (Direction.INGRESS,), "198.18.0.9")


def test_a_denied_connection_counts_once_whoever_refused_it() -> None:
    """The source may have been refused before it knew the destination's program."""
    denied: dict[str, Any] = {"answer": Answer.DENY, "reason": Reason.NO_RULE, "rule": ""}
    unknown = PartyRecord(workload=DB)
    (edge,) = join_edges(
        [make_edge(opened=3, ended=3, destination=unknown, **denied), make_edge(opened=3, ended=3, **denied, **INGRESS)]
    )
    assert (edge.connections, edge.destination.program) == (3, B)
    assert [one.verdict for one in edge.outcomes] == ["deny", "deny"]


def test_the_strictest_verdict_is_first_and_a_revoked_connection_counts_once() -> None:
    denied: dict[str, Any] = {"answer": Answer.DENY, "reason": Reason.NO_RULE}
    (edge,) = join_edges(
        [make_edge(opened=5, ended=4), make_edge(opened=0, ended=1, **denied), make_edge(would_deny=True, **INGRESS)]
    )
    assert edge.connections == 5
    assert [(one.verdict, one.connections) for one in edge.outcomes] == [("deny", 1), ("would deny", 1), ("allow", 5)]


def test_plaintext_between_two_workloads_is_joined_where_only_one_program_fits() -> None:
    """Neither side knows the other's program."""
    plain: dict[str, Any] = {"transport": Transport.PLAINTEXT}
    sent = make_edge(opened=2, source=PartyRecord(workload=WEB, program=A), destination=PartyRecord(listed=DB), **plain)
    taken: dict[str, Any] = {"source": PartyRecord(listed=WEB), **plain, **INGRESS}
    got = make_edge(opened=2, destination=PartyRecord(workload=DB, program=B), **taken)
    (edge,) = join_edges([got, sent])
    assert (edge.connections, edge.source.program, edge.destination.program) == (2, A, B)
    other = make_edge(opened=1, destination=PartyRecord(workload=DB, program=C), **taken)
    edges = join_edges([got, sent, other])
    assert sum(edge.connections for edge in edges if edge.is_counted) == 2
    assert [(edge.source.program, edge.destination.program, edge.is_counted) for edge in edges] == [
        ("", B, False),
        ("", C, False),
        (A, "", True),
    ]


PARTIES = st.sampled_from(
    [
        PartyRecord(workload=WEB, program=A),
        PartyRecord(workload=WEB, program=B),
        PartyRecord(workload=WEB),
        PartyRecord(listed=WEB),
        PartyRecord(address="198.18.0.1"),
        PartyRecord(identity="spiffe://other.test/x"),
        PartyRecord(),
    ]
)


@given(
    ends=st.lists(st.tuples(PARTIES, PARTIES), min_size=2, max_size=2),
    said=st.lists(st.tuples(st.sampled_from(Answer), st.booleans(), st.booleans()), min_size=2, max_size=2),
    counts=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=2),
)
def test_one_view_of_each_side_becomes_what_several_would(
    ends: list[tuple[PartyRecord, PartyRecord]],
    said: list[tuple[Answer, bool, bool]],
    counts: list[tuple[int, int]],
) -> None:
    ours, other = (
        make_edge(
            side=side,
            # As ``join_edges`` puts them together: of the same programs.
            source=msgspec.structs.replace(source, program=A),
            destination=msgspec.structs.replace(destination, program=B),
            answer=answer,
            would_deny=would_deny,
            is_lossy=is_lossy,
            opened=opened,
            ended=ended,
        )
        for side, (source, destination), (answer, would_deny, is_lossy), (opened, ended) in zip(
            (Direction.EGRESS, Direction.INGRESS), ends, said, counts, strict=True
        )
    )
    assert make_view_of_both(ours, other) == make_view([ours], [other])


@given(ends=st.lists(st.tuples(PARTIES, PARTIES, st.integers(1, 2), st.sampled_from(Direction)), max_size=12))
def test_the_order_is_that_of_the_names_that_are_shown_then_ports_and_programs(
    ends: list[tuple[PartyRecord, PartyRecord, int, Direction]],
) -> None:
    edges = join_edges(
        [make_edge(source=source, destination=other, port=port, side=side) for source, other, port, side in ends]
    )
    shown = [
        (edge.source.name, edge.destination.name, edge.port, edge.source.program, edge.destination.program)
        for edge in edges
    ]
    assert shown == sorted(shown)


def test_the_order_is_by_names_and_a_loss_on_either_side_shows() -> None:
    rows = [make_edge(port=2), make_edge(port=1), make_edge(port=1, is_lossy=True, **INGRESS)]
    assert [(edge.port, edge.is_lossy) for edge in join_edges(rows)] == [(1, True), (2, False)]
    assert join_edges(rows) == join_edges(reversed(rows))
    assert join_edges([]) == []
