"""A decision's words: the verdict, who the parties are, one row."""

from __future__ import annotations

from cli.text.decision import (
    COLUMNS,
    describe_fully,
    describe_party,
    describe_program,
    describe_verdict,
    drop_service,
    format_rows,
)  # fmt: skip
from shared.model.policy.decision import Answer, DraftVerdict, Origin, PartyRecord, Phase, ProcessRecord, Transport
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction
from shared.model.wire.admin import DecisionView
from tests.cli.observations import DENIAL
from tests.shared.model.policy.records import make_record


def test_a_verdict_says_what_else_matters() -> None:
    assert describe_verdict(make_record()) == "DENY"
    allowed = make_record(answer=Answer.ALLOW, would_deny=True, weak=True, transport=Transport.PLAINTEXT)
    assert describe_verdict(allowed) == "allow (would deny) weak plaintext"
    assert describe_verdict(make_record(answer=Answer.ALLOW, phase=Phase.START)) == "allow (start)"
    assert describe_verdict(make_record(answer=Answer.ALLOW, count=12)) == "allow ×12"


def test_a_party_is_its_proven_workload_or_its_address() -> None:
    assert describe_party(PartyRecord(workload="shop/web", address="198.18.0.2:1")) == "shop/web"
    assert describe_party(PartyRecord(identity="spiffe://a.example/b")) == "spiffe://a.example/b"
    assert describe_party(PartyRecord(address="198.18.0.2:1", listed="shop/web")) == "unidentified 198.18.0.2:1"
    assert describe_party(PartyRecord()) == "-"


def test_a_program_of_an_exec_session_is_told_at_the_side_that_saw_its_process() -> None:
    process = ProcessRecord(pid=7, origin=Origin.EXEC)
    party = PartyRecord(program="sha256:" + "a" * 64)
    record = make_record(source=party, destination=party, direction=Direction.INGRESS, process=process)
    assert describe_program(record, Direction.INGRESS) == f"{describe_program(record, Direction.EGRESS)} (exec)"


def test_a_row_has_a_cell_for_each_column() -> None:
    [row] = format_rows([DENIAL])
    assert len(row) == len(COLUMNS)
    assert row[2:5] == ("DENY", "program_not_approved", "shop/client")


def test_a_draft_is_told_where_it_differs() -> None:
    draft = DraftVerdict(
        answer=Answer.DENY, would_deny=False, reason=Reason.DENY_RULE, rule="shop/none", drafts=("shop@1",)
    )
    differs = make_record(answer=Answer.ALLOW, draft=draft)
    assert describe_verdict(differs) == "allow; draft: DENY deny_rule by shop/none"
    assert describe_verdict(make_record(draft=draft)) == "DENY"
    lines = list(describe_fully(DecisionView(id=1, record=make_record(draft=draft))))
    assert "  draft        DENY deny_rule by shop/none" in lines


def test_a_detail_that_says_but_the_service_is_not_repeated() -> None:
    assert drop_service("service demo/db", "demo/db:5432") == ""
    for detail, service in (
        ("service demo/db", ""),
        ("service demo/db has no endpoint", "demo/db:1"),
        ("", "demo/db:1"),
    ):
        assert drop_service(detail, service) == detail
    dialled = make_record(service="demo/db:5432", detail="service demo/db")
    lines = [*describe_fully(DecisionView(id=1, record=dialled))]
    assert any("Service demo/db:5432" in line for line in lines)
    assert not any(line.startswith("  detail") for line in lines)
