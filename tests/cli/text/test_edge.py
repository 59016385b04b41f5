"""Edges as rows: both sides' same verdict once, what isn't proven named as such."""

from __future__ import annotations

from cli.text.edge import COLUMNS, COVERAGE_COLUMNS, describe_end, format_coverage, format_rows
from shared.model.wire.admin_edges import EdgeEnd, WorkloadCoverage
from tests.cli.edges import ALLOW, DB, DENY, TAKEN, WEB, WOULD_DENY, make_edge


def test_what_both_sides_decided_alike_is_one_row() -> None:
    (row,) = format_rows([make_edge()])
    assert dict(zip(COLUMNS[4:], row[4:], strict=True)) == {
        "SERVICE": "shop/db:5432",
        "PORT": "5432",
        "TRANSPORT": "tunnel",
        "VERDICT": "allow",
        "REASON": "allow_rule",
        "RULE": "web-to-db",
        "SIDE": "both",
        "CONNECTIONS": "7",
        "LAST SEEN": "2026-09-21 14:14:20Z",
    }
    assert row[:4] == ("shop/web", "web abababababab", "shop/db", "cdcdcdcdcdcd")


def test_each_verdict_has_its_row_and_says_whose_it_is() -> None:
    rows = list(format_rows([make_edge(WEB, DB, DENY, WOULD_DENY, ALLOW, TAKEN, is_lossy=True, is_counted=False)]))
    assert [(row[7], row[10], row[11]) for row in rows] == [
        ("DENY", "source", "7+ (counted above)"),
        ("would deny", "source", "7+ (counted above)"),
        ("allow", "both", "7+ (counted above)"),
    ]


def test_what_is_not_proven_is_named_as_such() -> None:
    assert describe_end(EdgeEnd(listed="shop/db")) == "unidentified shop/db"
    assert describe_end(EdgeEnd(address="192.0.2.1")) == "unidentified 192.0.2.1"
    assert describe_end(EdgeEnd()) == "unidentified several addresses"
    assert describe_end(EdgeEnd(identity="spiffe://other/x")) == "spiffe://other/x"


def test_coverage_names_the_age_of_the_newest_record() -> None:
    one = WorkloadCoverage(
        workload="shop/web", pods=2, from_start=1, silent=0, restarts=1, records=9, lost=0, lossy_hours=0, hours_seen=3,
        hours_of_day=(), weekdays=(), newest=100.0,
    )  # fmt: skip
    (row,) = format_coverage([one], now=7300.0)
    assert dict(zip(COVERAGE_COLUMNS, row, strict=True))["FROM START"] == "1 of 2"
    assert row[-1] == "2 h ago"
