"""Summaries: equal decisions are one row, what was refused comes first, and nothing is counted twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from cli.main import run
from cli.text.exit_codes import ExitCode
from cli.text.summary import group_decisions
from shared.model.policy.decision import Answer, PartyRecord, Phase
from shared.model.policy.reasons import Reason
from shared.model.wire.admin import DecisionList, DecisionView
from tests.cli.fake_ca import FakeCA
from tests.cli.observations import DENIAL


def make_view(number: int, **changes: Any) -> DecisionView:
    changes.setdefault("connection", f"c{number}")
    return DecisionView(id=number, record=msgspec.structs.replace(DENIAL.record, **changes))


def make_allowed(number: int, **changes: Any) -> DecisionView:
    return make_view(number, answer=Answer.ALLOW, reason=Reason.SAME_GROUP, **changes)


def test_what_was_refused_comes_first_then_marks_then_the_most_frequent() -> None:
    views = [*(make_allowed(number) for number in range(5)), make_allowed(5, would_deny=True), make_view(6)]
    groups = group_decisions(views)
    assert [(group.kind.verdict, group.connections) for group in groups] == [
        ("DENY", 1),
        ("allow (would deny)", 1),
        ("allow", 5),
    ]


def test_a_connection_counts_once_and_an_aggregate_for_all_that_it_stands_for() -> None:
    views = [
        make_allowed(1, connection="a", phase=Phase.START),
        make_allowed(2, connection="a", issuer="CN=one"),
        make_allowed(3, connection="b", count=40, issuer="CN=two", time=1_900_000_000.0),
    ]
    [group] = group_decisions(views)
    assert (group.connections, group.issuers, group.last_seen) == (41, ("CN=one", "CN=two"), 1_900_000_000.0)


def test_a_stranger_is_one_row_whatever_port_it_came_from() -> None:
    views = [make_view(port, source=PartyRecord(address=f"198.18.0.4:{port}")) for port in (40001, 40002)]
    [group] = group_decisions(views)
    assert (group.kind.source, group.connections) == ("unidentified 198.18.0.4", 2)


def test_two_rules_are_two_rows() -> None:
    assert len(group_decisions([make_view(1, rule="a"), make_view(2, rule="b")])) == 2


def test_json_is_one_array_of_flat_objects(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["GET /v1/decisions"] = DecisionList(decisions=(make_view(1), make_view(2)))
    assert run(["decisions", "--summary", "--json"]) == ExitCode.SUCCESS
    [group] = msgspec.json.decode(capsys.readouterr().out)
    assert (group["connections"], group["reason"], group["issuers"]) == (2, "program_not_approved", [])
    assert ca.requests[0][1]["limit"] == "10000"


def test_the_table_counts(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["GET /v1/decisions"] = DecisionList(decisions=(make_view(1), make_view(2)))
    assert run(["decisions", "--summary", "--denied"]) == ExitCode.SUCCESS
    headings, row = capsys.readouterr().out.splitlines()[:2]
    assert headings.startswith("CONNECTIONS")
    assert row.split()[:3] == ["2", "egress", "DENY"]


def test_following_can_t_be_summed_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["decisions", "--summary", "--follow"]) == ExitCode.BAD_INPUT
    assert "can't be combined" in capsys.readouterr().err


def test_a_group_is_as_flat_as_its_kind() -> None:
    [group] = group_decisions([make_view(1)])
    assert replace(group, connections=3).as_row().connections == 3
    assert group.as_row().verdict == group.kind.verdict
