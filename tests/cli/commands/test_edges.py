"""Edges, coverage and graph: filters go to the CA, what is missing is said."""

from __future__ import annotations

import json

import pytest

from cli.commands import coverage, edges, graph, timeline
from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.wire.admin import CoverageList, WorkloadCoverage
from shared.model.wire.admin_edges import Timeline, TimelineHour
from tests.cli.edges import list_edges, make_edge
from tests.cli.fake_ca import FakeCA

EDGES = "GET /v1/namespaces/shop/edges"


def test_filters_reach_the_ca(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers[EDGES] = list_edges(make_edge(), total=1)
    assert run(["edges", "shop", "--since", "1h", "--denied", "--workload", "shop/db", "--limit", "5"]) == 0
    query = ca.requests[0][1]
    assert (query["denied"], query["workload"], query["limit"]) == ("true", "shop/db", "5")
    assert "would_deny" not in query
    row = capsys.readouterr().out.splitlines()[1]
    assert "shop/web" in row
    assert "allow_rule" in row


@pytest.mark.parametrize("verb", ["edges", "graph"])
def test_a_workload_is_named_with_or_without_its_namespace(ca: FakeCA, verb: str) -> None:
    ca.answers[EDGES] = list_edges(make_edge(), total=1)
    for name, meant in (("db", "shop/db"), ("shop/db", "shop/db"), ("bank/web", "bank/web")):
        assert run([verb, "shop", "--workload", name]) == ExitCode.SUCCESS
        assert ca.requests[-1][1]["workload"] == meant
    assert run([verb, "shop", "--workload", "No Name"]) == ExitCode.BAD_INPUT


def test_what_is_not_shown_is_said(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers[EDGES] = list_edges(make_edge(is_lossy=True), total=9, is_truncated=True)
    assert run(["edges", "shop"]) == ExitCode.SUCCESS
    said = capsys.readouterr().err
    assert "records were lost" in said
    assert "1 of 9 edges" in said
    assert "shorter --since" in said
    ca.answers[EDGES] = list_edges()
    run(["edges", "shop"])
    assert "no matching edges" in capsys.readouterr().out


def test_json_is_the_whole_answer(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers[EDGES] = list_edges(make_edge())
    assert run(["edges", "shop", "--json"]) == ExitCode.SUCCESS
    shown = json.loads(capsys.readouterr().out)
    assert shown["edges"][0]["source"]["program"] == "sha256:" + "ab" * 32


def test_coverage_says_each_gap(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    silent = WorkloadCoverage(
        workload="shop/job", pods=1, from_start=0, silent=1, restarts=0, records=0, lost=0, lossy_hours=0, hours_seen=0,
        hours_of_day=(), weekdays=(), newest=0.0, gaps=("nothing was seen",),
    )  # fmt: skip
    ca.answers["GET /v1/namespaces/shop/coverage"] = CoverageList(
        namespace="shop", since=0.0, workloads=(silent,), is_truncated=True
    )
    assert run(["coverage", "shop", "--since", "2d"]) == ExitCode.SUCCESS
    printed = capsys.readouterr()
    assert "shop/job: nothing was seen" in printed.out
    assert "never" in printed.out
    assert "newest reports" in printed.err
    assert run(["coverage", "shop", "--json"]) == ExitCode.SUCCESS
    assert json.loads(capsys.readouterr().out)["workloads"][0]["gaps"] == ["nothing was seen"]


def test_a_gap_that_workloads_share_stands_once(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    workloads = tuple(
        WorkloadCoverage(
            workload=name, pods=1, from_start=1, silent=0, restarts=0, records=1, lost=0, lossy_hours=0, hours_seen=1,
            hours_of_day=(9,), weekdays=(0,), newest=0.0, gaps=gaps,
        )
        for name, gaps in (("shop/db", ("never seen on Sunday",)), ("shop/web", ("late", "never seen on Sunday")))
    )  # fmt: skip
    ca.answers["GET /v1/namespaces/shop/coverage"] = CoverageList(namespace="shop", since=0.0, workloads=workloads)
    assert run(["coverage", "shop"]) == ExitCode.SUCCESS
    assert capsys.readouterr().out.splitlines()[-2:] == ["shop/db, shop/web: never seen on Sunday", "shop/web: late"]


@pytest.mark.parametrize(
    ("form", "begins"), [("svg", "<svg "), ("dot", 'digraph "shop" {'), ("mermaid", "flowchart LR"), ("json", "{")]
)
def test_a_graph_is_written_in_each_language(
    ca: FakeCA, capsys: pytest.CaptureFixture[str], form: str, begins: str
) -> None:
    ca.answers[EDGES] = list_edges(make_edge(), total=2)
    assert run(["graph", "shop", "--format", form]) == ExitCode.SUCCESS
    printed = capsys.readouterr()
    assert printed.out.startswith(begins)
    assert "shop/web" in printed.out
    assert "more edges than were drawn" in printed.err
    assert ca.requests[0][1]["limit"] == "5000"


def test_a_timeline_has_a_line_an_hour(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    path = "GET /v1/namespaces/shop/timeline"
    hour = TimelineHour(start=7200.0, sidecars=2, lost=5, allowed=11, would_deny=12, denied=13)
    ca.answers[path] = Timeline(namespace="shop", hours=(hour,))
    assert run(["timeline", "shop", "--since", "7d"]) == ExitCode.SUCCESS
    assert capsys.readouterr().out.splitlines()[1].split()[-5:] == ["11", "12", "13", "2", "5"]
    assert set(ca.requests[0][1]) == {"since"}
    assert run(["timeline", "shop", "--json"]) == ExitCode.SUCCESS
    assert json.loads(capsys.readouterr().out)["hours"][0]["denied"] == 13
    ca.answers[path] = Timeline(namespace="shop")
    assert run(["timeline", "shop"]) == ExitCode.SUCCESS
    assert "nothing is known" in capsys.readouterr().out


def test_each_has_an_example_in_its_help() -> None:
    for verb in (edges.edges, coverage.coverage, graph.graph, timeline.timeline):
        assert "Examples: touchmark " in (verb.__doc__ or "")
